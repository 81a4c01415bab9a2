"""A saga's own execution: drives the sagas of the events in its inbox, and stores other messages as dead letters.

Handlers only append, and messages stay raw until they are taken from the inbox, so that no message can fail a workflow
task. The execution ends only when its inbox is empty; the server does not let it end while it has not seen a message.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NoReturn

from pydantic import JsonValue
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ApplicationError, CancelledError

from orchestrator.drive.driver import CANCELLED, Driver, EventIdReused, SagaStuck, uninterrupted
from orchestrator.event import DomainEvent
from orchestrator.orchestrator import Orchestrator
from orchestrator.protocol import names
from orchestrator.protocol.commands import Outcome, Phase
from orchestrator.protocol.messages.dead_letters import Inbound, pieces
from orchestrator.protocol.messages.envelope import Envelope, UnreadableEvent, read, read_received
from orchestrator.protocol.messages.unwrapping import id_reused
from orchestrator.workflow.exact_numbers import unwrap_in_execution
from orchestrator.workflow.inbox import CARRIED, Fault, Inbox
from orchestrator.workflow.parking import EventParked
from orchestrator.workflow.search_attributes import ERROR_CODE, SAGA_STATUS, SagaStatus, upsert
from orchestrator.workflow.steps import TemporalSteps
from orchestrator.workflow.steps_table import StepsTable

UNDONE_UNREAD = "undone-unread"
"""The patch with which a cancelled saga is undone even if its event cannot be read. Without the patch, the event
becomes a dead letter."""
_FIRST_MESSAGE = timedelta(seconds=10)
"""How long an execution that was started without an event waits for one."""


class SagaExecution:
    """Runs a saga's own execution. It is called by an orchestrator's workflow class, which `hosts` creates."""

    def __init__(self, orchestrator: type[Orchestrator[Any, Any, Any]]) -> None:
        self.orchestrator = orchestrator
        # Signals of the first task arrive before `take_all` runs, so the inbox is created here.
        self._inbox = Inbox(self.orchestrator.awaited)
        self._taken: dict[str, DomainEvent] = {}
        self._first: Envelope | None = None
        """The first event. The execution ends with the outcome of its saga."""
        self._outcome: Outcome | None = None
        self._rejected: ApplicationError | None = None
        """The error with which the execution ends if no message was an event."""
        self._retries = 0
        self._wakes = 0
        self._is_undo_requested = False

    def receive(self, source: str, arguments: Sequence[RawValue]) -> None:
        """Put the messages of a signal in the inbox."""
        self._inbox.count()
        if source == names.RETRY_SIGNAL:
            self._retries += 1
        elif source == names.WAKE_SIGNAL:
            self._wakes += 1
        elif source == names.UNDO_SIGNAL:
            self._is_undo_requested = True
        else:
            self._inbox.receive(source, arguments)

    def receive_update(self, arguments: Sequence[RawValue]) -> int:
        """Put the messages of an update in the inbox, and return their number."""
        self._inbox.count(is_update=True)
        return self._inbox.receive(names.UPDATE_SOURCE, arguments)

    async def take_all(self, arguments: Sequence[RawValue]) -> dict[str, JsonValue]:
        """Process messages until there are none, then end with the outcome of the first event's saga."""
        if arguments:
            self._inbox.receive(names.START_SOURCE, arguments, first=True)
        elif self._inbox.is_empty:
            await self._wait_for_first()
        # Messages may arrive during each await below, so the loop ends only when the inbox is empty.
        while True:
            await self._inbox.sort()
            if self._inbox.wants_new_run and not self._inbox.is_empty:
                await self._continue_as_new(None)
            if self._inbox.messages:
                await self._take(self._inbox.messages.popleft())
            elif self._inbox.is_empty:
                return self._end()
            else:
                await self._store_unawaited()

    async def _store_unawaited(self) -> None:
        """Store as dead letters the events that no saga has received, and the faults.

        An event that the saga has received may be among them, if it was sent again or a run was replaced.
        """
        awaited_events, faults = self._inbox.take_unawaited()
        received = () if self._outcome is None else self._outcome.received
        for awaited in awaited_events:
            if awaited.envelope.event_id not in received:
                reason = f"{awaited.envelope.event_type}: the saga did not wait for this event, or no longer does"
                faults.append(Fault(awaited.message, "event.not_awaited", reason))
        for fault in faults:
            await self._store_dead_letter(fault.message, fault.code, fault.reason)

    async def _wait_for_first(self) -> None:
        try:
            await workflow.wait_condition(lambda: not self._inbox.is_empty, timeout=_FIRST_MESSAGE)
        except TimeoutError:
            self._rejected = _rejection("event.missing", "started without an event, and none arrived by a signal")

    async def _take(self, message: Inbound) -> None:
        try:
            envelope, event = self._read(message)
            if self._is_repeat(envelope, event):
                return
        except UnreadableEvent as fault:
            if await self._undo_unreadable(message, fault):
                return
            if fault.is_newer and self._waits_for_newer_worker(message):
                raise EventParked(fault.message) from fault
            await self._store_dead_letter(message, fault.code, fault.message)
            return
        self._taken[envelope.event_id] = event
        self._first = self._first or envelope
        try:
            outcome = await self._drive(envelope, event)
        except EventIdReused:
            reused = id_reused(envelope.event_id)
            await self._store_dead_letter(message, reused.code, reused.message)
            return
        if self._outcome is None:
            self._outcome = outcome

    @property
    def _must_undo(self) -> bool:
        """Whether to undo the saga without calling `handle`, because it was cancelled or an undo was requested."""
        return self._is_undo_requested or workflow.cancellation_reason() is not None

    async def _undo_unreadable(self, message: Inbound, fault: UnreadableEvent) -> bool:
        """Undo the saga of an event that the current contract cannot read, if the saga was cancelled.

        Returns:
            Whether the saga was undone.
        """
        if not self._must_undo or not self._is_own_event(message):
            return False
        if not workflow.patched(UNDONE_UNREAD):
            return False
        envelope = read(message.raw)
        try:
            outcome = await self._drive(envelope, fault)
        except EventIdReused:
            return False
        self._first = self._first or envelope
        self._outcome = self._outcome or outcome
        return True

    def _is_own_event(self, message: Inbound) -> bool:
        """Whether the message has a readable envelope with the event id in this execution's workflow id."""
        try:
            own = names.own_workflow_id(self.orchestrator.__name__, read(message.raw).event_id)
        except UnreadableEvent:
            return False
        return workflow.info().workflow_id == own

    def _waits_for_newer_worker(self, message: Inbound) -> bool:
        """Whether the execution may wait for a newer worker, which it may do only for its own event."""
        return not self._taken and self._is_own_event(message)

    def _read(self, message: Inbound) -> tuple[Envelope, DomainEvent]:
        envelope = read_received(message.source, message.raw)
        return envelope, unwrap_in_execution(envelope, *self.orchestrator.requests)

    def _is_repeat(self, envelope: Envelope, event: DomainEvent) -> bool:
        known = self._taken.get(envelope.event_id)
        if known is not None and known != event:
            raise id_reused(envelope.event_id)
        return known is not None

    async def _drive(self, envelope: Envelope, event: DomainEvent | UnreadableEvent) -> Outcome:
        info = workflow.info()
        status = SagaStatus()
        status.begin(envelope.event_type, envelope.event_id)
        table = StepsTable(f"{envelope.event_type} {envelope.event_id}")
        steps = TemporalSteps(
            table,
            self._inbox,
            status,
            lambda: self._retries,
            lambda: self._wakes,
            continue_as_new=lambda: self._continue_as_new(envelope),
        )
        driver = Driver(
            self.orchestrator,
            event,
            envelope,
            steps,
            owner=(info.workflow_id, info.first_execution_run_id),
            why_cancelled=workflow.cancellation_reason,
        )
        is_cancel_handled = False
        while True:
            retries_before = self._retries
            try:
                if not is_cancel_handled and self._must_undo:
                    is_cancel_handled = True
                    reason = workflow.cancellation_reason()
                    message = f"cancelled before it was done: {reason}" if reason else "cancelled before it was done"
                    return await driver.undo(Phase.CANCELLED, CANCELLED, message)
                return await driver.drive()
            except SagaStuck:
                await self._wait_for_person(envelope, retries_before, ends_on_cancel=not is_cancel_handled)
            except EventIdReused:
                raise
            except Exception:
                # A bug in `handle` waits for fixed code, unless the saga is cancelled.
                if is_cancel_handled or not self._must_undo:
                    raise

    async def _wait_for_person(self, envelope: Envelope, retries_before: int, *, ends_on_cancel: bool) -> None:
        """Wait for a cancellation or a retry. A retry continues as new, so that `handle` replays without this history.

        A retry may already have arrived, because an operator can see that the row is stuck before this execution waits.
        """
        decided = workflow.wait_condition(
            lambda: (
                self._retries > retries_before
                or (ends_on_cancel and workflow.cancellation_reason() is not None)
                or self._inbox.wants_new_run
            )
        )
        await uninterrupted(decided)
        if ends_on_cancel and workflow.cancellation_reason() is not None:
            return
        await self._continue_as_new(envelope)

    async def _continue_as_new(self, driven: Envelope | None) -> NoReturn:
        """Continue as new with the first event, the event that is being driven, and all others in the inbox."""
        begun = {
            envelope.event_id: envelope.text.encode() for envelope in (self._first, driven) if envelope is not None
        }
        carried = [*begun.values(), *await self._settle_inbox()]
        workflow.continue_as_new(args=[raw_json(data) for data in carried])

    async def _settle_inbox(self) -> list[bytes]:
        """Empty the inbox, and return the messages for the next run. Those that do not fit become dead letters."""
        carried: list[bytes] = []
        room = CARRIED
        while not self._inbox.is_empty:
            await self._inbox.sort()
            awaited_events, faults = self._inbox.take_unawaited()
            awaited = [event.message for event in awaited_events]
            for message in (*awaited, *self._inbox.messages):
                try:
                    if message not in awaited and self._is_repeat(*self._read(message)):
                        continue
                    if len(message.raw) > room:
                        raise UnreadableEvent(
                            "event.not_carried",
                            "the event arrived while the execution had to start a new run, which has no room for it. "
                            "Publish it again",
                        )
                except UnreadableEvent as fault:
                    faults.append(Fault(message, fault.code, fault.message))
                    continue
                room -= len(message.raw)
                carried.append(message.raw)
            self._inbox.messages.clear()
            for unusable in faults:
                await self._store_dead_letter(unusable.message, unusable.code, unusable.reason)
        return carried

    async def _store_dead_letter(self, message: Inbound, code: str, reason: str) -> None:
        """Store a message as a dead letter."""
        for piece in pieces(message, code, reason):
            storing = workflow.execute_activity(
                names.DEAD_LETTER,
                piece,
                start_to_close_timeout=timedelta(seconds=30),
                retry_policy=RetryPolicy(maximum_interval=timedelta(minutes=1)),
                summary=f"store a dead letter: {code}",
            )
            await uninterrupted(storing)
        if self._rejected is None:
            self._rejected = _rejection(code, f"stored as a dead letter: {reason}")

    def _end(self) -> dict[str, JsonValue]:
        outcome = self._outcome
        if outcome is None:
            rejected = self._rejected or _rejection("event.missing", "started without an event")
            upsert(SAGA_STATUS.value_set("rejected"), ERROR_CODE.value_set(rejected.type or ""))
            raise rejected
        attributes = [SAGA_STATUS.value_set(outcome.phase.value)]
        if outcome.error_code:
            attributes.append(ERROR_CODE.value_set(outcome.error_code))
        upsert(*attributes)
        body: dict[str, JsonValue] = outcome.model_dump(mode="json")
        if outcome.phase is Phase.COMPLETED:
            return body
        if outcome.phase is Phase.CANCELLED and workflow.cancellation_reason() is not None:
            workflow.upsert_memo({names.OUTCOME_MEMO: body})
            raise CancelledError(outcome.message or "cancelled")
        raise ApplicationError(
            outcome.message or "", body, type=outcome.error_code or "saga.failed", non_retryable=True
        )


def _rejection(code: str, message: str) -> ApplicationError:
    return ApplicationError(message, type=code, non_retryable=True)


def raw_json(data: bytes) -> RawValue:
    """Return a payload of exactly these bytes, marked as JSON."""
    return RawValue(Payload(metadata={"encoding": b"json/plain"}, data=data))
