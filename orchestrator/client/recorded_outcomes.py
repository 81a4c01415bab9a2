"""Outcomes read from the tables: for sagas that have no execution of their own to wait for, or none any more."""

import asyncio
from uuid import UUID

from orchestrator.answers import ASKED_SAGAS, Question, SagaTold
from orchestrator.client.asking import Asking
from orchestrator.client.tables import Tables
from orchestrator.drive.messages import Outcome


class RecordedOutcomes:
    """Waits for any number of sagas with one question at a time.

    Args:
        tables: where the rows are; nothing is asked before the first wait.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._waiting: dict[UUID, list[asyncio.Future[Outcome]]] = {}
        self._asking = Asking(tables, self._look, lambda: len(self._waiting), self._fail)

    async def of(self, saga_id: UUID) -> Outcome:
        """Wait for a saga's outcome, as long as it takes and whatever has to be reached again meanwhile.

        Raises:
            Unreachable: the tables cannot be reached, and never were.
        """
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(saga_id, []).append(ended)
        self._asking.go_on()
        try:
            return await ended
        except asyncio.CancelledError:
            self._forget()
            if not self._waiting:
                self._asking.stop()
            raise

    async def standing(self, saga_id: UUID) -> SagaTold | None:
        """How a saga stands now; None if it has no row.

        Raises:
            Unreachable: the tables cannot be reached.
        """
        told = await self._tables.ask(Question(sagas=(saga_id,), open_too=True))
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
            told = await self._tables.ask(Question(sagas=tuple(ids[first : first + ASKED_SAGAS]), seconds=seconds))
            for one in told.sagas:
                if one.outcome is not None:
                    found = True
                    for ended in self._waiting.pop(one.saga, []):
                        if not ended.done():
                            ended.set_result(one.outcome)
        return found

    def _fail(self, fault: BaseException | None) -> None:
        for waiting in self._waiting.values():
            for ended in waiting:
                if fault is None:
                    ended.cancel()
                elif not ended.done():
                    ended.set_exception(fault)
        self._waiting.clear()

    def _forget(self) -> None:
        """Those that nobody waits for any more."""
        for key in [key for key, waiting in self._waiting.items() if all(one.done() for one in waiting)]:
            del self._waiting[key]
