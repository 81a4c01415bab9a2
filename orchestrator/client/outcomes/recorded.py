"""Outcomes read from the tables, which have them as soon as they are decided."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from uuid import UUID

from orchestrator.client.outcomes.lookup import LookupSource
from orchestrator.client.outcomes.polling import Polling
from orchestrator.protocol.commands import Outcome
from orchestrator.protocol.lookup import LOOKUP_SAGAS, Lookup, SagaEntry
from orchestrator.store.connections.event_loop import LoopBinding

_PAUSE_SHARE, _PAUSE_SHARE_OF_FEW = 0.1, 0.05
"""The pause between two lookups, as a share of sagas' recent duration; it bounds how late an outcome is noticed."""
_FEW = 4
"""The largest number of waiting callers for which the smaller share applies."""
_RISING_WEIGHT, _FALLING_WEIGHT = 0.125, 0.5
"""The weight of the latest saga in the recent duration. It is larger if the saga was shorter, to forget a past load."""


@dataclass(slots=True)
class _Wait:
    since: float
    ended: list[asyncio.Future[Outcome]] = field(default_factory=list[asyncio.Future[Outcome]])


class RecordedOutcomes:
    """Waits for any number of sagas with one lookup at a time.

    Args:
        source: answers the lookups; none is sent before the first wait.
        clock: returns the time in seconds.
        binding: the event loop that this object belongs to.
    """

    def __init__(
        self, source: LookupSource, clock: Callable[[], float] = monotonic, *, binding: LoopBinding | None = None
    ) -> None:
        self.binding = binding or LoopBinding("this reader of outcomes", "Create one in each event loop.")
        self._source = source
        self._clock = clock
        self._waiting: dict[UUID, _Wait] = {}
        self._recent_duration = 0.0
        """The seconds that callers recently waited for a saga, as a moving average."""
        self._polling = Polling(source, self._look, lambda: bool(self._waiting), self._fail, self.pause)

    @property
    def is_local(self) -> bool:
        """Whether this process answers lookups itself, which costs less than a request to Temporal."""
        return self._source.is_local

    async def of(self, saga_id: UUID) -> Outcome:
        """Wait for a saga's outcome without a limit, across any number of lost connections.

        Raises:
            Unreachable: the tables could not be reached even once.
        """
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(saga_id, _Wait(self._clock())).ended.append(ended)
        self._polling.include_new_caller()
        try:
            return await ended
        except asyncio.CancelledError:
            wait = self._waiting.get(saga_id)
            if wait is not None and all(future.done() for future in wait.ended):
                del self._waiting[saga_id]  # only its own, because searching all for each cancelled caller is quadratic
            if not self._waiting:
                self._polling.stop()
            raise

    async def entry_of(self, saga_id: UUID) -> SagaEntry | None:
        """Return the current state of a saga; None if it has no row.

        Raises:
            Unreachable: the tables cannot be reached.
        """
        reply = await self._source.ask(Lookup(sagas=(saga_id,), open_too=True))
        return next(iter(reply.sagas), None)

    async def close(self) -> None:
        """Stop polling, and cancel the callers that wait."""
        self._polling.stop()

    async def _look(self) -> bool:
        self._forget_cancelled()
        has_news = False
        ids = list(self._waiting)
        for first in range(0, len(ids), LOOKUP_SAGAS):
            # If the sagas need several lookups, none of these may wait for news and so delay the others.
            seconds = self._source.patience if len(ids) <= LOOKUP_SAGAS else 0.0
            reply = await self._source.ask(Lookup(sagas=tuple(ids[first : first + LOOKUP_SAGAS]), seconds=seconds))
            for entry in reply.sagas:
                if entry.outcome is not None:
                    has_news = True
                    self._resolve(entry.saga, entry.outcome)
        return has_news

    def _resolve(self, saga_id: UUID, outcome: Outcome) -> None:
        wait = self._waiting.pop(saga_id, None)
        if wait is None:
            return
        took = self._clock() - wait.since
        change = took - self._recent_duration
        weight = _RISING_WEIGHT if change > 0 else _FALLING_WEIGHT
        self._recent_duration = self._recent_duration + change * weight if self._recent_duration else took
        for ended in wait.ended:
            if not ended.done():
                ended.set_result(outcome)

    def pause(self, has_news: bool | None) -> float:
        """Return the seconds until the next lookup, which grow with the recent or the current duration of sagas."""
        shortest, longest = self._source.pauses
        if not self._waiting or (has_news is None and not self.is_local):
            return shortest
        share = _PAUSE_SHARE_OF_FEW if len(self._waiting) <= _FEW else _PAUSE_SHARE
        age = self._clock() - max(wait.since for wait in self._waiting.values())
        return max(shortest, min(share * max(self._recent_duration, age), longest))

    def _fail(self, fault: BaseException | None) -> None:
        for wait in self._waiting.values():
            for ended in wait.ended:
                if fault is None:
                    ended.cancel()
                elif not ended.done():
                    ended.set_exception(fault)
        self._waiting.clear()

    def _forget_cancelled(self) -> None:
        """Remove the sagas whose callers have all been cancelled."""
        for key in [key for key, wait in self._waiting.items() if all(future.done() for future in wait.ended)]:
            del self._waiting[key]
