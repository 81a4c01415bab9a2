"""A saga's own execution: takes messages from its inbox, drives what is an event, keeps what is not.

Handlers only append. Messages are raw until they are taken, so nothing that is sent can fail a workflow task. The
execution ends only when its inbox is empty; the server refuses the end while a message it has not seen is waiting.
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
from orchestrator.protocol.dead_letters import pieces
from orchestrator.protocol.envelope import Envelope, UnreadableEvent, read, read_received
from orchestrator.protocol.unwrapping import id_reused
from orchestrator.workflow.exact_numbers import unwrap_in_execution
from orchestrator.workflow.inbox import CARRIED, Fault, Inbound, Inbox
from orchestrator.workflow.parking import EventParked
from orchestrator.workflow.search_attributes import ERROR_CODE, SAGA_STATUS, SagaStatus, upsert
from orchestrator.workflow.steps import TemporalSteps
from orchestrator.workflow.steps_table import StepsTable

UNDONE_UNREAD = "undone-unread"
"""Patch: a cancelled saga is undone though its event cannot be read. Before, the event was kept as a dead letter."""
_FIRST_MESSAGE = timedelta(seconds=10)
"""How long an execution that was started with nothing waits for its event."""


class SagaExecution:
    """What an execution does that has one saga; see `hosts` for the workflow class of an orchestrator."""

    def __init__(self, orchestrator: type[Orchestrator[Any, Any, Any]]) -> None:
        self.orchestrator = orchestrator
        # Signals of the first task arrive before `take_all` runs.
        self._inbox = Inbox(self.orchestrator.awaited)
        self._taken: dict[str, DomainEvent] = {}
        self._first: Envelope | None = None
        """As its event's saga ends, the execution does."""
        self._outcome: Outcome | None = None
        self._rejected: ApplicationError | None = None
        self._retries = 0
        self._wakes = 0
        self._is_undo_asked = False

    def receive(self, source: str, arguments: Sequence[RawValue]) -> None:
        """Put messages in the inbox."""
        self._inbox.count()
        if source == names.RETRY_SIGNAL:
            self._retries += 1
        elif source == names.WAKE_SIGNAL:
            self._wakes += 1
        elif source == names.UNDO_SIGNAL:
            self._is_undo_asked = True
        else:
            self._inbox.receive(source, arguments)

    def receive_update(self, arguments: Sequence[RawValue]) -> int:
        """Put messages in the inbox that were sent by an update; how many."""
        self._inbox.count(is_update=True)
        return self._inbox.receive(names.UPDATE_SOURCE, arguments)

    async def take_all(self, arguments: Sequence[RawValue]) -> dict[str, JsonValue]:
        """Take messages until there are none, then end as the first event's saga ended."""
        if arguments:
            self._inbox.receive(names.START_SOURCE, arguments, first=True)
        elif self._inbox.is_empty:
            await self._wait_for_first()
        # Whatever is awaited here, more may have come meanwhile: it ends only when all is settled.
        while True:
            await self._inbox.sort()
            if self._inbox.wants_new_run and not self._inbox.is_empty:
                await self._go_on_in_another_run(None)
            if self._inbox.messages:
                await self._take(self._inbox.messages.popleft())
            elif self._inbox.is_empty:
                return self._end()
            else:
                await self._keep_left()

    async def _keep_left(self) -> None:
        """Keep what no saga has taken. One that its saga has taken may be here again, when a task was done anew."""
        letters, faults = self._inbox.leave()
        received = () if self._outcome is None else self._outcome.received
        for letter in letters:
            if letter.envelope.event_id not in received:
                reason = f"{letter.envelope.event_type}: the saga did not wait for it, or waits no more"
                faults.append(Fault(letter.message, "event.not_awaited", reason))
        for fault in faults:
            await self._keep(fault.message, fault.code, fault.reason)

    async def _wait_for_first(self) -> None:
        try:
            await workflow.wait_condition(lambda: not self._inbox.is_empty, timeout=_FIRST_MESSAGE)
        except TimeoutError:
            self._rejected = _rejection("event.missing", "started without an event, and none came by signal")

    async def _take(self, message: Inbound) -> None:
        try:
            envelope, event = self._read(message)
            if self._is_repeat(envelope, event):
                return
        except UnreadableEvent as fault:
            if await self._is_undone_unread(message, fault):
                return
            if fault.is_newer and self._waits_for_newer_worker(message):
                raise EventParked(fault.message) from fault
            await self._keep(message, fault.code, fault.message)
            return
        self._taken[envelope.event_id] = event
        self._first = self._first or envelope
        try:
            outcome = await self._drive(envelope, event)
        except EventIdReused:
            reused = id_reused(envelope.event_id)
            await self._keep(message, reused.code, reused.message)
            return
        if self._outcome is None:
            self._outcome = outcome

    @property
    def _is_to_undo(self) -> bool:
        """Whether the saga is to be undone before `handle` has a say: it was cancelled, or the database decided so."""
        return self._is_undo_asked or workflow.cancellation_reason() is not None

    async def _is_undone_unread(self, message: Inbound, fault: UnreadableEvent) -> bool:
        """Undo the saga of an event that today's contract cannot read, if a person has cancelled it."""
        if not self._is_to_undo or not self._is_own_event(message):
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
        """Whether it is the event that this execution is named after, and its envelope can be read."""
        try:
            own = names.own_workflow_id(self.orchestrator.__name__, read(message.raw).event_id)
        except UnreadableEvent:
            return False
        return workflow.info().workflow_id == own

    def _waits_for_newer_worker(self, message: Inbound) -> bool:
        """Only this execution's own event; who sends it something else must not bring it to a halt."""
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
            go_on=lambda: self._go_on_in_another_run(envelope),
        )
        driver = Driver(
            self.orchestrator,
            event,
            envelope,
            steps,
            owner=(info.workflow_id, info.first_execution_run_id),
            why_cancelled=workflow.cancellation_reason,
        )
        cancel_tried = False
        while True:
            heard = self._retries
            try:
                if not cancel_tried and self._is_to_undo:
                    cancel_tried = True
                    said = workflow.cancellation_reason()
                    reason = f"cancelled before it was done: {said}" if said else "cancelled before it was done"
                    return await driver.undo(Phase.CANCELLED, CANCELLED, reason)
                return await driver.drive()
            except SagaStuck:
                await self._wait_for_a_person(envelope, heard, heeds_cancel=not cancel_tried)
            except EventIdReused:
                raise
            except Exception:
                # A bug in `handle` waits for its fix, unless a person wants no more of it.
                if cancel_tried or not self._is_to_undo:
                    raise

    async def _wait_for_a_person(self, envelope: Envelope, heard: int, *, heeds_cancel: bool) -> None:
        """Wait for a cancel, or for a retry: it drives again with an empty history, and recorded steps answer.

        A retry may be here already: who saw the row marked as stuck was faster than this execution.
        """
        decided = workflow.wait_condition(
            lambda: (
                self._retries > heard
                or (heeds_cancel and workflow.cancellation_reason() is not None)
                or self._inbox.wants_new_run
            )
        )
        await uninterrupted(decided)
        if heeds_cancel and workflow.cancellation_reason() is not None:
            return
        await self._go_on_in_another_run(envelope)

    async def _go_on_in_another_run(self, driven: Envelope | None) -> NoReturn:
        """Continue as new, with the event that is driven, if one is, and what else is in the inbox."""
        begun = {one.event_id: one.text.encode() for one in (self._first, driven) if one is not None}
        carried = [*begun.values(), *await self._settle_inbox()]
        workflow.continue_as_new(args=[raw_json(data) for data in carried])

    async def _settle_inbox(self) -> list[bytes]:
        """What else is in the inbox: events are carried over, as many as fit; the rest is kept as dead letters."""
        carried: list[bytes] = []
        room = CARRIED
        while not self._inbox.is_empty:
            await self._inbox.sort()
            letters, faults = self._inbox.leave()
            wanted = [letter.message for letter in letters]
            for message in (*wanted, *self._inbox.messages):
                try:
                    if message not in wanted and self._is_repeat(*self._read(message)):
                        continue
                    if len(message.raw) > room:
                        raise UnreadableEvent("event.not_carried", "came while the saga was stuck: publish it again")
                except UnreadableEvent as fault:
                    faults.append(Fault(message, fault.code, fault.message))
                    continue
                room -= len(message.raw)
                carried.append(message.raw)
            self._inbox.messages.clear()
            for left in faults:
                await self._keep(left.message, left.code, left.reason)
        return carried

    async def _keep(self, message: Inbound, code: str, reason: str) -> None:
        """Keep a message as a dead letter."""
        for piece in pieces(message.raw, source=message.source, position=message.position, code=code, reason=reason):
            kept = workflow.execute_activity(
                names.DEAD_LETTER,
                piece,
                start_to_close_timeout=timedelta(seconds=30),
                retry_policy=RetryPolicy(maximum_interval=timedelta(minutes=1)),
                summary=f"keep a dead letter: {code}",
            )
            await uninterrupted(kept)
        if self._rejected is None:
            self._rejected = _rejection(code, f"kept as a dead letter: {reason}")

    def _end(self) -> dict[str, JsonValue]:
        outcome = self._outcome
        if outcome is None:
            rejected = self._rejected or _rejection("event.missing", "started without an event")
            upsert(SAGA_STATUS.value_set("rejected"), ERROR_CODE.value_set(rejected.type or ""))
            raise rejected
        ended = [SAGA_STATUS.value_set(outcome.phase.value)]
        if outcome.error_code:
            ended.append(ERROR_CODE.value_set(outcome.error_code))
        upsert(*ended)
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
    """A payload that holds these bytes as they are, shown as JSON."""
    return RawValue(Payload(metadata={"encoding": b"json/plain"}, data=data))
