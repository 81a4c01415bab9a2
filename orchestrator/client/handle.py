"""A handle to one saga that an event started: just now, before, or by another process."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any, Generic, TypeVar, cast
from uuid import UUID

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.client.outcomes.execution_outcome import Untold, told_by_execution
from orchestrator.client.outcomes.lookup import LookupUnavailable
from orchestrator.client.outcomes.progress import FINISHING, Progress, progress_of
from orchestrator.client.outcomes.recorded import RecordedOutcomes
from orchestrator.client.task_queues import unpolled_queue_of
from orchestrator.errors import EventRejected, NotFinished, SagaCancelled, SagaFailed, SagaUnknown, Unreachable
from orchestrator.event import DomainEvent
from orchestrator.orchestrator import Orchestrator
from orchestrator.protocol.commands import Outcome, Phase
from orchestrator.protocol.envelope import (
    OUTCOME_SIZE_LIMIT,
    Envelope,
    canonical,
    read,
    saga_id,
)
from orchestrator.protocol.names import is_partition
from orchestrator.protocol.unwrapping import id_reused, is_same_event, unwrap

C = TypeVar("C", bound=DomainEvent)

UNTAKEN = 5.0
"""Seconds that a partition is given to take an event that was just published, before its saga counts as unknown."""
_LOOK_AGAIN = 0.25
_PATIENCE = 0.5
"""Seconds after which an execution is asked, too: it may tell why it will never have an outcome."""


class SagaHandle(Generic[C]):
    """One saga: wait for it, follow it.

    Attributes:
        orchestrator: its class.
        event_id: the event's id; publishing it again is harmless.
        workflow_id: the execution's id, as the Web UI shows it.
        run_id: the run that took the event, if this process published it.
        is_repeat: the saga had completed before; nothing was sent.
    """

    def __init__(
        self,
        client: Client,
        orchestrator: type[Orchestrator[Any, C, Any]],
        event_id: str,
        workflow_id: str,
        run_id: str | None = None,
        *,
        outcomes: RecordedOutcomes,
        envelope: Envelope | None = None,
        is_repeat: bool = False,
    ) -> None:
        self._client = client
        self._envelope = envelope
        """None: the event is not known here, whoever published it."""
        self._outcomes = outcomes
        self.orchestrator = orchestrator
        self.event_id = event_id
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.is_repeat = is_repeat

    async def outcome(self, *, timeout: timedelta | None = None) -> Outcome:
        """Wait for the saga's outcome, good or bad, whatever becomes of its execution and of connections meanwhile.

        Args:
            timeout: how long; without it, as long as it takes.

        Raises:
            NotFinished: it has not ended within the timeout; it goes on.
            SagaUnknown: there is no execution and no row of it.
            EventRejected: `event.id_reused`, the id belongs to another event.
            Unreachable: what has to be asked cannot be reached, and never was.
        """
        self._outcomes.binding.check()
        try:
            async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
                outcome = await self._outcome()
        except TimeoutError:
            queue = await unpolled_queue_of(self._client, self.workflow_id)
            goes_on = "it goes on"
            if queue is not None:
                goes_on = (
                    f"no worker polls its task queue {queue!r}. Start one there, or set ORCHESTRATOR_TASK_QUEUE of "
                    "this client to the workers'"
                )
            raise NotFinished(f"{self._shown} has not finished within {timeout}; {goes_on}") from None
        if not self._is_of(outcome):
            fault = id_reused(self.event_id)
            raise EventRejected(fault.code, fault.message)
        return outcome

    async def result(self, *, timeout: timedelta | None = None) -> C:
        """Wait for the completed event.

        Raises:
            SagaFailed: the saga was undone; `SagaCancelled` if a person cancelled it.
            NotFinished: it has not ended within the timeout; it goes on.
            SagaUnknown, EventRejected, Unreachable: as `outcome`.
        """
        outcome = await self.outcome(timeout=timeout)
        told = read(canonical(outcome.event), limit=OUTCOME_SIZE_LIMIT)
        if outcome.phase is Phase.COMPLETED:
            return cast(C, unwrap(told, self.orchestrator.completed))
        failure = unwrap(told, self.orchestrator.failed)
        error = SagaCancelled if outcome.phase is Phase.CANCELLED else SagaFailed
        raise error(failure.error_code, failure.message, failure)

    async def follow(self) -> AsyncGenerator[Progress]:
        """What the saga does, as it does it, until its execution ends; where that is not there, how the saga ends.

        Raises:
            SagaUnknown, EventRejected, Unreachable: as `outcome`.
        """
        self._outcomes.binding.check()
        if not is_partition(self.workflow_id):
            try:
                async for progress in progress_of(self._client, self.workflow_id, self.run_id):
                    yield progress
                return
            except RPCError as fault:
                if fault.status is not RPCStatusCode.NOT_FOUND:
                    raise
        outcome = await self.outcome()
        yield Progress(f"{FINISHING}{'completed' if outcome.phase is Phase.COMPLETED else 'undone'}", "done")

    async def _outcome(self) -> Outcome:
        if is_partition(self.workflow_id):
            return await self._outcomes.of(self._saga_id)
        if not self._outcomes.are_near:
            return await self._told()
        # The row has it a moment before its execution has ended, and asking many rows is one question.
        recorded = asyncio.create_task(self._outcomes.of(self._saga_id))
        told = asyncio.create_task(self._told(after=_PATIENCE))
        try:
            await asyncio.wait({recorded, told}, return_when=asyncio.FIRST_COMPLETED)
            has_told = recorded.done() and not recorded.cancelled() and recorded.exception() is None
            return recorded.result() if has_told else await told
        finally:
            recorded.cancel()
            told.cancel()
            await asyncio.gather(recorded, told, return_exceptions=True)

    async def _told(self, *, after: float = 0.0) -> Outcome:
        """By its execution; by its row, where that does not tell."""
        await asyncio.sleep(after)
        told = await told_by_execution(self._client, self.workflow_id, self.run_id)
        match told:
            case Outcome():
                return told
            case EventRejected():
                # What an execution could not take may have been something else that was sent to it.
                if not await self._is_recorded():
                    raise told
            case Untold.GONE:
                await self._must_be_known()
            case _:
                pass
        # Whoever drives it now, or will: recovery sees to that.
        return await self._outcomes.of(self._saga_id)

    async def _is_recorded(self) -> bool:
        """Whether this event has a row: then what becomes of it stands there."""
        try:
            row = await self._outcomes.standing(self._saga_id)
        except Unreachable:
            return False
        return row is not None and (self._envelope is None or row.content_digest == self._envelope.content_digest)

    async def _must_be_known(self) -> None:
        """Its execution is not there (any more): then it has a row, or it is not there at all.

        Raises:
            SagaUnknown: it is not.
        """
        may_be_untaken = self._envelope is None and self.orchestrator.partitions is not None
        until = asyncio.get_running_loop().time() + (UNTAKEN if may_be_untaken else 0.0)
        while not await self._has_row():
            if asyncio.get_running_loop().time() >= until:
                raise SagaUnknown(
                    f"no saga and no execution of the event {self.event_id} is known to {self.orchestrator.__name__}: "
                    + (
                        "it was never published, or only just now and no worker has taken it yet"
                        if self._envelope is None
                        else "its execution was deleted before a worker took it. Publish it again with the same id"
                    )
                )
            await asyncio.sleep(_LOOK_AGAIN)

    async def _has_row(self) -> bool:
        while True:
            try:
                return await self._outcomes.standing(self._saga_id) is not None
            except LookupUnavailable:
                await asyncio.sleep(_LOOK_AGAIN)

    @property
    def _saga_id(self) -> UUID:
        return saga_id(self.orchestrator.__name__, self.event_id)

    @property
    def _shown(self) -> str:
        return f"the saga in {self.workflow_id}" if is_partition(self.workflow_id) else self.workflow_id

    def _is_of(self, outcome: Outcome) -> bool:
        """Whether the outcome belongs to this event, and not to an earlier one with the same id."""
        triggering = outcome.triggering_version, outcome.triggering
        return self._envelope is None or is_same_event(
            self._envelope, outcome.content_digest, triggering, *self.orchestrator.requests
        )
