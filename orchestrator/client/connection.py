"""Connects to Temporal according to the environment; an error says what to do."""

import asyncio
import atexit
import ctypes
import os
import time
from functools import cache
from shlex import quote as quote_for_shell
from urllib.parse import quote

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter
from temporalio.envconfig import ClientConfig, ClientConnectConfig
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RetryConfig, RPCError, RPCStatusCode

from orchestrator.errors import Unreachable
from orchestrator.settings import Settings, command_to_start

_RETRIES = RetryConfig(max_elapsed_time_millis=30_000, max_retries=60)
"""The SDK's default of 10 seconds is too short, because a closing execution refuses signals for up to 8 seconds."""

_PATIENCE_SECONDS = 10
"""How many seconds to wait for the first answer. Without a limit, a silent server fails only after 30 seconds."""

_EXIT_DELAY = 0.1
"""How many seconds to delay the exit. Without a delay, a third of the scripts that ran under load aborted at exit
("PyGILState_Release", exit code 134 or 139) after their work was done. With half of this delay, none of 250 aborted."""


@cache
def _delay_exit() -> None:
    """Delay the exit until the SDK's native threads have ended, because calling a finalized interpreter aborts it."""
    atexit.register(time.sleep, _EXIT_DELAY)


@cache
def _prepare_for_forks() -> None:
    os.register_at_fork(after_in_child=_keep_runtime)


def _keep_runtime() -> None:
    """Keep the SDK's runtime from ever being freed in this process, which was forked.

    Freeing it waits for its threads, which the fork did not copy, so a child that only exits would hang.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(Runtime.default()))


async def connect_temporal(settings: Settings, *, data_converter: DataConverter = pydantic_data_converter) -> Client:
    """Connect according to Temporal's environment variables and profiles, or else according to `settings`.

    Raises:
        Unreachable: the server does not answer, or refuses this client.
    """
    _delay_exit()
    try:
        config = ClientConfig.load_client_connect_config()
    except Exception as fault:  # a broken profile file may raise any error
        raise Unreachable(
            f"Temporal's configuration cannot be read ({fault}). Correct the file or the TEMPORAL_… variables."
        ) from fault
    address = config.get("target_host") or settings.resolved_temporal_address or "localhost:7233"
    config["target_host"] = address
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            client = await _connect(config, data_converter)
            await _check_namespace(client, address)
            return client
    except (RuntimeError, RPCError, OSError, ValueError) as fault:
        if _is_refusal(fault):
            raise Unreachable(
                f"Temporal at {address} refuses this client ({_summary(fault)}). "
                "Set TEMPORAL_API_KEY or TEMPORAL_TLS_… to what the server accepts."
            ) from fault
        raise Unreachable(
            f"Temporal at {address} cannot be reached ({_summary(fault)}). "
            f"Start it (`{command_to_start('dev')}` starts one here), or set TEMPORAL_ADDRESS to the right one."
        ) from fault


async def _connect(config: ClientConnectConfig, data_converter: DataConverter) -> Client:
    """Connect; in a process that was forked from one that had connected, with a new runtime."""
    _prepare_for_forks()
    try:
        return await Client.connect(**config, data_converter=data_converter, retry_config=_RETRIES)
    except AssertionError as fault:  # raised by the SDK, which checks for a fork
        if "fork" not in str(fault):
            raise
    _keep_runtime()
    Runtime.set_default(Runtime(telemetry=TelemetryConfig()), error_if_already_set=False)
    return await Client.connect(**config, data_converter=data_converter, retry_config=_RETRIES)


async def _check_namespace(client: Client, address: str) -> None:
    """Verify that the namespace exists, because otherwise some calls fail as if only the saga were unknown.

    Raises:
        Unreachable: the namespace does not exist.
    """
    try:
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    except RPCError as fault:
        if fault.status is RPCStatusCode.PERMISSION_DENIED:
            return  # a client that may not describe the namespace may still use it
        if fault.status is not RPCStatusCode.NOT_FOUND:
            raise
        raise Unreachable(
            f"Temporal at {address} has no namespace {client.namespace!r}. Set TEMPORAL_NAMESPACE to one that it has, "
            f"or create it: temporal operator namespace create --namespace {quote_for_shell(client.namespace)}"
        ) from fault


def _is_refusal(fault: Exception) -> bool:
    """Whether the server answered but refused this client."""
    if isinstance(fault, RPCError):
        return fault.status in (RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.PERMISSION_DENIED)
    text = str(fault).lower()
    return any(word in text for word in ("unauthenticated", "permissiondenied", "permission denied"))


def ui_link(settings: Settings, namespace: str, workflow_id: str, run_id: str | None = None) -> str:
    """Return the URL of an execution's page in the Web UI."""
    page = f"{settings.resolved_ui_url}/namespaces/{quote(namespace, safe='')}/workflows/{quote(workflow_id, safe='')}"
    return f"{page}/{run_id}/timeline" if run_id else page


def _summary(fault: Exception) -> str:
    if isinstance(fault, TimeoutError):
        return f"no answer within {_PATIENCE_SECONDS} s"
    text = (str(fault).splitlines() or [type(fault).__name__])[0]
    for noise in ("Failed client connect: ", "Server connection error: "):
        text = text.removeprefix(noise)
    return "connection refused" if "refused" in text.lower() else text[:200]
