"""Registers the engine's search attributes in a namespace, and works without those that cannot be registered.

A namespace has room for only a few. On Temporal's SQL stores it has ten of the type Keyword, shared by all its
applications.
"""

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.errors import Unreachable
from orchestrator.workflow.search_attributes import ERROR_CODE, EVENT_ID, EVENT_TYPE, SAGA_STATUS, leave_out

_BY_USE = (SAGA_STATUS, ERROR_CODE, EVENT_TYPE, EVENT_ID)
"""The search attributes, the most useful first, so that these get the remaining room. Recovery needs the status; an
event's id is already part of the workflow id."""
_KEYWORD = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD


async def ensure_search_attributes(client: Client) -> str | None:
    """Register the engine's search attributes in the client's namespace, if they are missing.

    Returns:
        A message for the operator about those that cannot be registered, or None if all are registered.

    Raises:
        Unreachable: the server does not answer, or `SagaStatus` cannot be registered; the message says what to do.
    """
    try:
        known = await _known(client)
        missing = [key.name for key in _BY_USE if key.name not in known]
        refusal = await _add(client, missing)
        if refusal:
            for name in missing:
                refusal = await _add(client, [name]) or refusal
            known = await _known(client)
        else:
            known |= dict.fromkeys(missing, _KEYWORD)
    except RPCError as fault:
        raise Unreachable(
            f"The search attributes of the namespace {client.namespace!r} cannot be read ({fault.message}). Allow the "
            "worker to use Temporal's operator service, at least to list search attributes"
        ) from fault
    lost = [key.name for key in _BY_USE if known.get(key.name) != _KEYWORD]
    leave_out(client.namespace, lost)
    if not lost:
        return None
    wrong_types = [f"{name} exists with a type other than Keyword" for name in lost if name in known]
    cause = "; ".join(([refusal.rstrip(".")] if refusal else []) + wrong_types)
    several = len(lost) > 1
    problem = (
        f"The search attribute{'s' if several else ''} {', '.join(lost)} cannot be registered in the namespace "
        f"{client.namespace!r} ({cause})."
    )
    remedy = _remedy(client.namespace, lost, known)
    if SAGA_STATUS.name in lost:
        raise Unreachable(f"{problem} Recovery cannot work without SagaStatus. {remedy}")
    return (
        f"{problem} Executions cannot be searched by {'them' if several else 'it'}; nothing else is affected. {remedy}"
    )


async def _known(client: Client) -> dict[str, int]:
    listed = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    return dict(listed.custom_attributes)


async def _add(client: Client, names: list[str]) -> str:
    """Add search attributes. Return the server's refusal, or an empty string if it or another worker has added them."""
    if not names:
        return ""
    request = AddSearchAttributesRequest(namespace=client.namespace, search_attributes=dict.fromkeys(names, _KEYWORD))
    try:
        await client.operator_service.add_search_attributes(request)
    except RPCError as fault:
        if fault.status is RPCStatusCode.UNAVAILABLE:
            raise
        return "" if fault.status is RPCStatusCode.ALREADY_EXISTS and len(names) == 1 else fault.message
    return ""


def _remedy(namespace: str, lost: list[str], known: dict[str, int]) -> str:
    create = " ".join(f"--name {name} --type Keyword" for name in lost)
    in_the_way = " ".join(f"--name {name}" for name in lost if name in known) or "--name UNUSED"
    return (
        "To register all of them, give the application its own namespace (temporal operator namespace create "
        "--namespace NAME, and set TEMPORAL_NAMESPACE). Or remove search attributes that are in the way (temporal "
        f"operator search-attribute remove --namespace {namespace} {in_the_way}), and then let someone with the "
        f"permission run: temporal operator search-attribute create --namespace {namespace} {create}"
    )
