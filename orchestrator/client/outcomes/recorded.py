"""Outcomes read from the tables, where they stand as soon as they are decided."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from uuid import UUID

from orchestrator.client.outcomes.lookup import LookupSource
from orchestrator.client.outcomes.polling import Polling
from orchestrator.protocol.commands import Outcome
from orchestrator.protocol.lookup import ASKED_SAGAS, Lookup, SagaEntry
from orchestrator.store.connections.event_loop import LoopBinding

_PART, _PART_OF_FEW = 0.1, 0.05
"""After this part of the time that sagas take of late comes the next question: at most so late is an outcome known."""
_FEW = 4
_RISING, _FALLING = 0.125, 0.5
"""Weights of the last wait in what is usual: a load that is over is to be forgotten soon."""


@dataclass(slots=True)
class _Wait:
    since: float
    ended: list[asyncio.Future[Outcome]] = field(default_factory=list[asyncio.Future[Outcome]])


class RecordedOutcomes:
    """Waits for any number of sagas with one question at a time.

    Args:
        tables: where the rows are; nothing is asked before the first wait.
        clock: seconds.
        binding: the event loop that it belongs to.
    """

    def __init__(
        self, tables: LookupSource, clock: Callable[[], float] = monotonic, *, binding: LoopBinding | None = None
    ) -> None:
        self.binding = binding or LoopBinding("this reader of outcomes", "Make one in each event loop.")
        self._tables = tables
        self._clock = clock
        self._waiting: dict[UUID, _Wait] = {}
        self._usual = 0.0
        """Seconds that a wait took, of late."""
        self._asking = Polling(tables, self._look, lambda: bool(self._waiting), self._fail, self.pause)

    @property
    def are_near(self) -> bool:
        """Whether asking costs less than asking Temporal."""
        return self._tables.are_near

    async def of(self, saga_id: UUID) -> Outcome:
        """Wait for a saga's outcome, as long as it takes and whatever has to be reached again meanwhile.

        Raises:
            Unreachable: the tables cannot be reached, and never were.
        """
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(saga_id, _Wait(self._clock())).ended.append(ended)
        self._asking.go_on()
        try:
            return await ended
        except asyncio.CancelledError:
            wait = self._waiting.get(saga_id)
            if wait is not None and all(future.done() for future in wait.ended):
                del self._waiting[saga_id]  # to look through all of them would cost the square of those cancelled
            if not self._waiting:
                self._asking.stop()
            raise

    async def standing(self, saga_id: UUID) -> SagaEntry | None:
        """How a saga stands now; None if it has no row.

        Raises:
            Unreachable: the tables cannot be reached.
        """
        told = await self._tables.ask(Lookup(sagas=(saga_id,), open_too=True))
        return next(iter(told.sagas), None)

    async def close(self) -> None:
        """Wait for nothing any more."""
        self._asking.stop()

    async def _look(self) -> bool:
        self._forget()
        found = False
        ids = list(self._waiting)
        for first in range(0, len(ids), ASKED_SAGAS):
            # Of many, none may wait for what becomes of others.
            seconds = self._tables.patience if len(ids) <= ASKED_SAGAS else 0.0
            told = await self._tables.ask(Lookup(sagas=tuple(ids[first : first + ASKED_SAGAS]), seconds=seconds))
            for one in told.sagas:
                if one.outcome is not None:
                    found = True
                    self._tell(one.saga, one.outcome)
        return found

    def _tell(self, saga_id: UUID, outcome: Outcome) -> None:
        wait = self._waiting.pop(saga_id, None)
        if wait is None:
            return
        took = self._clock() - wait.since
        more = took - self._usual
        self._usual = self._usual + more * (_RISING if more > 0 else _FALLING) if self._usual else took
        for ended in wait.ended:
            if not ended.done():
                ended.set_result(outcome)

    def pause(self, news: bool | None) -> float:
        """Seconds until the next question: rarer where sagas take long, or the last one has taken longer than usual."""
        soonest, latest = self._tables.pauses
        if not self._waiting or (news is None and not self.are_near):
            return soonest
        part = _PART_OF_FEW if len(self._waiting) <= _FEW else _PART
        age = self._clock() - max(wait.since for wait in self._waiting.values())
        return max(soonest, min(part * max(self._usual, age), latest))

    def _fail(self, fault: BaseException | None) -> None:
        for wait in self._waiting.values():
            for ended in wait.ended:
                if fault is None:
                    ended.cancel()
                elif not ended.done():
                    ended.set_exception(fault)
        self._waiting.clear()

    def _forget(self) -> None:
        """Those that nobody waits for any more."""
        for key in [key for key, wait in self._waiting.items() if all(one.done() for one in wait.ended)]:
            del self._waiting[key]
