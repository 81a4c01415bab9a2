"""The sources themselves: one way to send a message for each. A message is sent until it is accepted or rejected."""

import asyncio
import base64
import http.cookiejar
import json
import tempfile
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WithStartWorkflowOperation, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.common import RawValue, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError, RPCStatusCode

from orchestrator import outbox
from orchestrator.client import EventBus
from orchestrator.client.publishing.partitions import partition_of
from orchestrator.devserver.server import find_temporal
from orchestrator.errors import EventRejected, Unreachable
from orchestrator.protocol.messages.envelope import read
from orchestrator.protocol.messages.unwrapping import unwrap
from orchestrator.protocol.names import own_workflow_id, partition_for
from orchestrator.protocol.reserved_names import PUBLISH_EVENT_WORKFLOW
from orchestrator.store.core.database import Database
from tests.sources.application import CATALOG
from tests.sources.plan import Sending

_RETRY_INTERVAL = 0.2
_TIMEOUT = 300.0
"""Seconds until sending a message is given up."""
_TRANSIENT = (
    RPCStatusCode.UNAVAILABLE,
    RPCStatusCode.RESOURCE_EXHAUSTED,
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.ABORTED,
    RPCStatusCode.NOT_FOUND,  # an update reached an execution that was just closing
    RPCStatusCode.FAILED_PRECONDITION,  # or a workflow task that the server discarded
)
_BUSY = ("deadline", "unavailable", "exhausted", "connect")
"""Words in the CLI's error when the server is overloaded."""
_PROGRAMS_AT_ONCE = 2


class Senders:
    """One way of sending for each source.

    Args:
        client: a connection that uses Temporal's own data converter.
        bus: a bus without a database; the workers store what it cannot deliver.
        storing_bus: a bus with a database; it stores even what is too large for the server.
        database: the database with the outbox.
        task_queue: the workers' task queue.
        ui_url: the address of the Web UI; without one, its messages are sent by starting a workflow.
    """

    def __init__(
        self,
        client: Client,
        bus: EventBus,
        storing_bus: EventBus,
        database: Database,
        *,
        task_queue: str,
        ui_url: str = "",
    ) -> None:
        self._client = client
        self._database = database
        self._bus = bus
        self._storing_bus = storing_bus
        self._task_queue = task_queue
        self._ui_url = ui_url
        self._programs = asyncio.Semaphore(_PROGRAMS_AT_ONCE)
        self._send_by_source: Mapping[str, Callable[[Sending], Awaitable[None]]] = {
            "bus": self._by_bus,
            "signal": self._by_signal,
            "start": self._by_start,
            "update": self._by_update,
            "web": self._by_web_ui if ui_url else self._by_start,
            "cli": self._by_program,
            "outbox": self._by_outbox,
        }

    async def send(self, sending: Sending) -> None:
        """Send a message until it is accepted or rejected.

        Raises:
            Exception: the source did not respond in time, or failed for good.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + _TIMEOUT
        while True:
            sending.attempts += 1
            try:
                await self._send_by_source[sending.source](sending)
            except EventRejected as rejection:
                sending.refused.append(f"{rejection.code}, letter {rejection.dead_letter}")
            except (RPCError, Unreachable, TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError) as fault:
                if (isinstance(fault, RPCError) and fault.status not in _TRANSIENT) or loop.time() > until:
                    raise
                await asyncio.sleep(_RETRY_INTERVAL)
                continue
            return

    async def _by_bus(self, sending: Sending) -> None:
        raw = sending.letters[0]
        if not sending.kind and sending.number % 2:
            envelope = read(raw)
            event = unwrap(envelope, CATALOG.events[envelope.event_type])
            await self._bus.publish(event, event_id=envelope.event_id, time=envelope.time)
        else:
            is_larger = len(raw) > 2 * 1024 * 1024
            await (self._storing_bus if is_larger or sending.number % 4 else self._bus).publish_raw(raw)

    async def _by_outbox(self, sending: Sending) -> None:
        envelope = read(sending.letters[0])
        event = unwrap(envelope, CATALOG.events[envelope.event_type])
        async with self._database.transaction() as connection:
            await outbox.add(connection, event, event_id=envelope.event_id, time=envelope.time)

    async def _by_signal(self, sending: Sending) -> None:
        is_misnamed = sending.kind == "an event by a wrong signal name"
        await self._client.start_workflow(
            sending.orchestrator,
            id=self._target(sending),
            task_queue=self._task_queue,
            start_signal="evnet" if is_misnamed else "event",
            start_signal_args=_payloads(sending),
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        )

    async def _by_start(self, sending: Sending) -> None:
        kind, workflow_id = self._pasted(sending)
        await self._client.start_workflow(kind, args=_payloads(sending), id=workflow_id, task_queue=self._task_queue)

    async def _by_update(self, sending: Sending) -> None:
        start: WithStartWorkflowOperation[Any, Any] = WithStartWorkflowOperation(
            sending.orchestrator,
            id=self._target(sending),
            task_queue=self._task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        )
        try:
            client: Any = self._client  # this method's type is partially unknown
            reply: Any = await client.execute_update_with_start_workflow(
                f"update {sending.number}",
                args=_payloads(sending),
                start_workflow_operation=start,
                id=sending.update_id,  # the same id on each attempt, so that a lost reply does not send it twice
            )
        except RPCError:
            with suppress(RPCError):
                await start.workflow_handle()  # the SDK raises the error here too, and logs it if nobody awaits it
            raise
        assert reply == {"accepted": len(sending.letters)}, reply

    async def _by_web_ui(self, sending: Sending) -> None:
        kind, workflow_id = self._pasted(sending)
        body = {
            "workflowId": workflow_id,
            "workflowType": {"name": kind},
            "taskQueue": {"name": self._task_queue},
            "input": {"payloads": [_in_json(raw) for raw in sending.arguments]},
        }
        page = f"{self._ui_url}/api/v1/namespaces/{self._client.namespace}/workflows/{quote(workflow_id, safe='')}"
        await asyncio.to_thread(_post, self._ui_url, page, json.dumps(body).encode())

    async def _by_program(self, sending: Sending) -> None:
        """Start a workflow with Temporal's command line, as a person would."""
        kind, workflow_id = self._pasted(sending)
        async with self._programs:
            with tempfile.TemporaryDirectory(prefix="sources-") as folder:
                words = ["workflow", "start", "--type", kind, "--workflow-id", workflow_id]
                words += ["--task-queue", self._task_queue]
                # The command line rejects input that is not JSON, unless it is declared as something else.
                words += ["--input-base64"] if sending.kind else []
                for number, raw in enumerate(sending.arguments):
                    file = Path(folder) / str(number)
                    file.write_bytes(base64.b64encode(raw) if sending.kind else raw)
                    words += ["--input-file", str(file)]
                    words += ["--input-meta", "encoding=binary/plain"] if sending.kind else []
                await self._run(words)

    async def _run(self, words: list[str]) -> None:
        address = self._client.service_client.config.target_host
        process = await asyncio.create_subprocess_exec(
            find_temporal(),
            *words,
            "--address",
            address,
            "--namespace",
            self._client.namespace,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, stderr = await process.communicate()
        if process.returncode:
            message = f"temporal {' '.join(words[:2])}: {stderr.decode(errors='replace')[-500:]}"
            raise (Unreachable if any(word in message for word in _BUSY) else RuntimeError)(message)

    def _pasted(self, sending: Sending) -> tuple[str, str]:
        """Return the workflow type to start and a workflow id; any id will do."""
        return PUBLISH_EVENT_WORKFLOW if sending.by_type else sending.orchestrator, f"pasted/{uuid4()}"

    def _target(self, sending: Sending) -> str:
        listener = CATALOG.orchestrators[sending.orchestrator]
        if listener.partitions is None:
            return own_workflow_id(sending.orchestrator, sending.into or sending.event_id)
        if sending.kind:
            return partition_for(sending.orchestrator, sending.event_id, listener.partitions)
        envelope = read(sending.arguments[0])
        return partition_of(listener, unwrap(envelope, *listener.requests), envelope)


_ENCODINGS = (b"json/plain", b"json/plain", b"binary/plain", b"binary/mystery", b"")


def _encoding(raw: bytes) -> bytes:
    """Pick the encoding that the payload claims to have; nothing may depend on it."""
    return _ENCODINGS[len(raw) % len(_ENCODINGS)]


def _payloads(sending: Sending) -> list[RawValue]:
    return [RawValue(Payload(metadata={"encoding": _encoding(raw)}, data=raw)) for raw in sending.arguments]


def _in_json(raw: bytes) -> dict[str, Any]:
    encoding = base64.b64encode(_encoding(raw)).decode()
    return {"metadata": {"encoding": encoding}, "data": base64.b64encode(raw).decode()}


def _post(ui_url: str, page: str, body: bytes) -> None:
    """Post as the Web UI's page does, with its CSRF token."""
    jar = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    opener.open(f"{ui_url}/api/v1/settings", timeout=30).close()
    token = next((cookie.value for cookie in jar if cookie.name == "_csrf"), None) or ""
    headers = {"content-type": "application/json", "X-CSRF-TOKEN": token}
    try:
        opener.open(urllib.request.Request(page, data=body, headers=headers, method="POST"), timeout=30).close()
    except urllib.error.HTTPError as fault:
        reply = fault.read()[-500:].decode(errors="replace")
        raise Unreachable(f"the Web UI replied {fault.code}: {reply}") from fault
    except OSError as fault:
        raise Unreachable(f"the Web UI does not answer: {fault}") from fault
