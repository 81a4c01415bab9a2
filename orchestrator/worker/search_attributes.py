"""The engine's search attributes in a namespace: registered where they are missing, done without where they cannot be.

A namespace has room for few of them: ten keywords on Temporal's SQL stores, which other applications share.
"""

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.errors import Unreachable
from orchestrator.workflow.search_attributes import ERROR_CODE, EVENT_ID, EVENT_TYPE, SAGA_STATUS, leave_out

_BY_USE = (SAGA_STATUS, ERROR_CODE, EVENT_TYPE, EVENT_ID)
"""What gets the room that is left first. Recovery needs the status; an event's id is in the workflow's id already."""
_KEYWORD = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD


async def ensure_search_attributes(client: Client) -> str | None:
    """Register the engine's search attributes in the client's namespace, if they are missing.

    Returns:
        What is lost because some cannot be registered, as a remark for the operator; None if all are there.

    Raises:
        Unreachable: the server does not answer, or `SagaStatus` cannot be registered; the message says what helps.
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
            f"The search attributes of the namespace {client.namespace!r} cannot be read ({fault.message}). Let the "
            "worker use Temporal's operator service, at least to list them"
        ) from fault
    lost = [key.name for key in _BY_USE if known.get(key.name) != _KEYWORD]
    leave_out(client.namespace, lost)
    if not lost:
        return None
    others = [f"{name} exists with another type than Keyword" for name in lost if name in known]
    cause = "; ".join(([refusal.rstrip(".")] if refusal else []) + others)
    several = len(lost) > 1
    said = (
        f"The search attribute{'s' if several else ''} {', '.join(lost)} cannot be had in the namespace "
        f"{client.namespace!r} ({cause}). "
    )
    if SAGA_STATUS.name in lost:
        raise Unreachable(f"{said}Recovery cannot work without SagaStatus. {_ways_out(client.namespace, lost, known)}")
    return (
        f"{said}Executions cannot be searched by {'them' if several else 'it'}; nothing else is lost. "
        f"{_ways_out(client.namespace, lost, known)}"
    )


async def _known(client: Client) -> dict[str, int]:
    listed = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    return dict(listed.custom_attributes)


async def _add(client: Client, names: list[str]) -> str:
    """Why the server does not add them; empty if it did, or another worker did meanwhile."""
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


def _ways_out(namespace: str, lost: list[str], known: dict[str, int]) -> str:
    create = " ".join(f"--name {name} --type Keyword" for name in lost)
    in_the_way = " ".join(f"--name {name}" for name in lost if name in known) or "--name UNUSED"
    return (
        "To have all: use a namespace of its own (temporal operator namespace create --namespace NAME, and set "
        f"TEMPORAL_NAMESPACE), or remove what is in the way (temporal operator search-attribute remove --namespace "
        f"{namespace} {in_the_way}) and then have someone who may run: temporal operator search-attribute create "
        f"--namespace {namespace} {create}"
    )
