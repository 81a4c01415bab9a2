"""A connection to Temporal, from the environment, with an error that says what to do."""

import asyncio
import atexit
import time
from functools import cache
from shlex import quote as quote_for_shell
from urllib.parse import quote

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter
from temporalio.envconfig import ClientConfig
from temporalio.service import RetryConfig, RPCError, RPCStatusCode

from orchestrator.errors import Unreachable, UsageError
from orchestrator.settings import Settings

_RETRIES = RetryConfig(max_elapsed_time_millis=30_000, max_retries=60)
"""The SDK's ten seconds are too few: a closing execution refuses signals for up to eight."""

_PATIENCE_SECONDS = 10
"""For the first answer. Something that only listens would otherwise keep us for 30 seconds."""


_SETTLE = 0.1
"""Seconds. Under load a third of scripts aborted at their end ("PyGILState_Release", exit 134 or 139) with their work
done; with half of this, none of 250 did."""


@cache
def _settle_at_exit() -> None:
    """Let the SDK native threads end while there is an interpreter: what they call into it later is fatal."""
    atexit.register(time.sleep, _SETTLE)


async def connect_temporal(settings: Settings, *, data_converter: DataConverter = pydantic_data_converter) -> Client:
    """Connect by Temporal's environment variables and profiles, then by `settings`.

    Raises:
        Unreachable: nothing answers there, or it refuses us.
        UsageError: this process was forked from one that had connected.
    """
    _settle_at_exit()
    try:
        config = ClientConfig.load_client_connect_config()
    except Exception as fault:  # a broken profile file may raise anything, and all of it is the operator's to mend
        raise Unreachable(f"Temporal's configuration cannot be read: {fault}") from fault
    address = config.get("target_host") or settings.resolved_temporal_address or "localhost:7233"
    config["target_host"] = address
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            client = await Client.connect(**config, data_converter=data_converter, retry_config=_RETRIES)
            await _check_namespace(client, address)
            return client
    except AssertionError as fault:  # the SDK's own check of the process
        if "fork" not in str(fault):
            raise
        raise UsageError(
            "This process was forked from one that had connected to Temporal, whose threads do not survive a fork. "
            "Start it with multiprocessing's method 'spawn' or 'forkserver', or connect only after the fork."
        ) from fault
    except (RuntimeError, RPCError, OSError, ValueError) as fault:
        if _is_refusal(fault):
            raise Unreachable(
                f"Temporal at {address} refuses this client ({_short(fault)}). "
                "Set TEMPORAL_API_KEY or TEMPORAL_TLS_… to what the server accepts."
            ) from fault
        raise Unreachable(
            f"Temporal at {address} cannot be reached ({_short(fault)}). "
            "Start it (`make up` starts one here), or set TEMPORAL_ADDRESS to the right one."
        ) from fault


async def _check_namespace(client: Client, address: str) -> None:
    """Make sure that the namespace exists: without it each call is refused, and some as if the saga were unknown.

    Raises:
        Unreachable: it does not.
    """
    try:
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    except RPCError as fault:
        if fault.status is RPCStatusCode.PERMISSION_DENIED:
            return  # whoever may not describe it may still use it
        if fault.status is not RPCStatusCode.NOT_FOUND:
            raise
        raise Unreachable(
            f"Temporal at {address} has no namespace {client.namespace!r}. Set TEMPORAL_NAMESPACE to one that it has, "
            f"or create it: temporal operator namespace create --namespace {quote_for_shell(client.namespace)}"
        ) from fault


def _is_refusal(fault: Exception) -> bool:
    """Whether the server answered, and does not let this client in."""
    if isinstance(fault, RPCError):
        return fault.status in (RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.PERMISSION_DENIED)
    text = str(fault).lower()
    return any(word in text for word in ("unauthenticated", "permissiondenied", "permission denied"))


def ui_link(settings: Settings, namespace: str, workflow_id: str, run_id: str | None = None) -> str:
    """An execution's page in the Web UI."""
    page = f"{settings.resolved_ui_url}/namespaces/{quote(namespace, safe='')}/workflows/{quote(workflow_id, safe='')}"
    return f"{page}/{run_id}/timeline" if run_id else page


def _short(fault: Exception) -> str:
    if isinstance(fault, TimeoutError):
        return f"no answer within {_PATIENCE_SECONDS} s"
    text = (str(fault).splitlines() or [type(fault).__name__])[0]
    for noise in ("Failed client connect: ", "Server connection error: "):
        text = text.removeprefix(noise)
    return "connection refused" if "refused" in text.lower() else text[:200]
