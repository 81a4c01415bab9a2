"""A workflow that publishes envelopes over the worker's bus, for senders that do not know which orchestrators listen.

The Web UI, the `temporal` command, and a bus without a database for dead letters use it. Like an own execution, it
accepts messages from every source, and its handlers only append, so that no message can block it.
"""

from collections import deque
from collections.abc import Sequence
from datetime import timedelta

from pydantic import BaseModel, ConfigDict, JsonValue
from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ApplicationError

from orchestrator.protocol import names
from orchestrator.protocol.messages.dead_letters import Inbound, pieces
from orchestrator.protocol.messages.envelope import EVENT_SIZE_LIMIT, UnreadableEvent, check_received, too_large
from orchestrator.protocol.reserved_names import PUBLISH_EVENT_WORKFLOW
from orchestrator.workflow.inbox import CARRIED
from orchestrator.workflow.own_execution import raw_json

PUBLISH_EVENT = "saga.publish_event"
"""The activity type. It is part of the wire format, like the constants in `names`. The workflow is `PublishEvent`."""
FROM_BUS = f"{PUBLISH_EVENT_WORKFLOW}/bus/"
"""The prefix of the ids of executions that an event bus starts."""

_ATTEMPT = timedelta(seconds=30)
_RETRIES = RetryPolicy(maximum_interval=timedelta(minutes=1))
_FIRST_MESSAGE = timedelta(seconds=10)
"""How long an execution that was started without an event waits for one."""


class PublishReply(BaseModel):
    """The result of publishing one message."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    event_id: str | None = None
    orchestrators: tuple[str, ...] = ()
    """The names of the orchestrators that have received the event."""
    dead_letter: int | None = None
    """The number of the dead letter, if the message became one."""
    code: str = ""
    reason: str = ""


@workflow.defn(name=PUBLISH_EVENT_WORKFLOW)
class PublishEvent:
    """Receives events in CloudEvents envelopes, and publishes each event to every listening orchestrator."""

    def __init__(self) -> None:
        self._arrived: deque[Inbound] = deque()
        self._count = 0
        self._published: list[PublishReply] = []
        self._dead_letters = 0
        self._rejected: ApplicationError | None = None

    @workflow.signal(dynamic=True)
    def receive_signal(self, name: str, args: Sequence[RawValue]) -> None:
        """Receive any signal with any arguments."""
        self._receive(name, args)

    @workflow.update(dynamic=True)
    async def receive_update(self, name: str, args: Sequence[RawValue]) -> dict[str, JsonValue]:
        """Receive any update with any arguments."""
        return {"accepted": self._receive(names.UPDATE_SOURCE, args)}

    @workflow.run
    async def run(self, *arguments: RawValue) -> dict[str, JsonValue]:
        """Publish events, and return which orchestrators received each; fail if all messages became dead letters."""
        if arguments:
            from_bus = workflow.info().workflow_id.startswith(FROM_BUS)
            self._receive(names.BUS_SOURCE if from_bus else names.START_SOURCE, arguments, first=True)
        elif not self._arrived:
            await self._wait_for_first()
        while self._arrived:
            self._continue_as_new_if_due()
            await self._publish(self._arrived.popleft())
        if not self._published:
            raise self._rejected or _rejection("event.missing", "started without an event, and none arrived")
        published: list[JsonValue] = [
            {"event_id": event.event_id, "orchestrators": list(event.orchestrators)} for event in self._published
        ]
        return {"published": published, "dead_letters": self._dead_letters}

    def _receive(self, source: str, arguments: Sequence[RawValue], *, first: bool = False) -> int:
        messages: list[Inbound] = []
        for raw in [argument.payload.data for argument in arguments] or [b""]:
            self._count += 1
            messages.append(Inbound(source, self._count, raw))
        if first:
            self._arrived.extendleft(reversed(messages))
        else:
            self._arrived.extend(messages)
        return len(messages)

    async def _wait_for_first(self) -> None:
        try:
            await workflow.wait_condition(lambda: bool(self._arrived), timeout=_FIRST_MESSAGE)
        except TimeoutError:
            return

    async def _publish(self, message: Inbound) -> None:
        try:
            check_received(message.source, message.raw)
        except UnreadableEvent as fault:
            await self._store_dead_letter(message, fault.code, fault.message)
            return
        if len(message.raw) > EVENT_SIZE_LIMIT:
            await self._store_dead_letter(message, "event.too_large", too_large(len(message.raw)))
            return
        result = await workflow.execute_activity(
            PUBLISH_EVENT,
            args=[message.source, message.position, raw_json(message.raw)],
            result_type=PublishReply,
            start_to_close_timeout=_ATTEMPT,
            retry_policy=_RETRIES,
            summary="publish to every listening orchestrator",
        )
        if result.dead_letter is None:
            self._published.append(result)
        else:
            self._reject(result.code, result.reason, result.dead_letter)

    async def _store_dead_letter(self, message: Inbound, code: str, reason: str) -> None:
        number: int | None = None
        for piece in pieces(message, code, reason):
            number = await workflow.execute_activity(
                names.DEAD_LETTER,
                piece,
                result_type=int,
                start_to_close_timeout=_ATTEMPT,
                retry_policy=_RETRIES,
                summary=f"store a dead letter: {code}",
            )
        self._reject(code, reason, number)

    def _reject(self, code: str, reason: str, letter: int | None) -> None:
        self._dead_letters += 1
        if self._rejected is None:
            self._rejected = _rejection(code, reason, letter)

    def _continue_as_new_if_due(self) -> None:
        if not workflow.info().is_continue_as_new_suggested():
            return
        can_be_carried = all(message.source in names.EVENT_SOURCES and message.raw for message in self._arrived)
        if can_be_carried and sum(len(message.raw) for message in self._arrived) <= CARRIED:
            workflow.continue_as_new(args=[raw_json(message.raw) for message in self._arrived])


def _rejection(code: str, message: str, letter: int | None = None) -> ApplicationError:
    details = [] if letter is None else [letter]
    return ApplicationError(message, *details, type=code, non_retryable=True)
