"""Outcomes read from the database, for sagas that have no execution of their own to wait for."""

import asyncio
from datetime import timedelta
from uuid import UUID

from sqlalchemy import bindparam, select
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.drive.messages import Outcome
from orchestrator.errors import NotFinished
from orchestrator.store.database import Database
from orchestrator.store.schema import saga

_SOON, _LATER = 0.004, 0.1
"""Seconds between two looks: short while sagas end, growing while none does."""
_LOOKED_UP = 500
_ENDED = select(saga.c.id, saga.c.outcome).where(
    saga.c.id.in_(bindparam("sagas", expanding=True)), saga.c.outcome.is_not(None)
)


class RecordedOutcomes:
    """Waits for any number of sagas with one query at a time.

    Args:
        database: the home database; opened at the first wait.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[UUID, list[asyncio.Future[Outcome]]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def of(self, saga_id: UUID, workflow_id: str, timeout: timedelta | None) -> Outcome:
        """Wait for a saga's outcome.

        Raises:
            NotFinished: it has not ended within the timeout.
            Unreachable: the database cannot be reached.
        """
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(saga_id, []).append(ended)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
                return await ended
        except TimeoutError:
            raise NotFinished(f"the saga in {workflow_id} has not finished within {timeout}; it goes on") from None

    async def close(self) -> None:
        """Wait for nothing any more."""
        if self._looking is not None:
            self._looking.cancel()
        await self._database.close()

    async def _look(self) -> None:
        pause = _SOON
        try:
            while self._waiting:
                await asyncio.sleep(pause)
                self._forget()
                found = 0
                ids = list(self._waiting)
                for first in range(0, len(ids), _LOOKED_UP):
                    found += await self._look_up(ids[first : first + _LOOKED_UP])
                pause = _SOON if found else min(pause * 1.5, _LATER)
        except Exception as failure:
            fault = self._database.unreachable(failure) if isinstance(failure, SQLAlchemyError | OSError) else failure
            for waiting in self._waiting.values():
                for ended in waiting:
                    if not ended.done():
                        ended.set_exception(fault)
            self._waiting.clear()
        finally:
            self._looking = None
            for waiting in self._waiting.values():  # only if it was closed, or its loop is ending
                for ended in waiting:
                    ended.cancel()
            self._waiting.clear()

    async def _look_up(self, ids: list[UUID]) -> int:
        async with self._database.reading() as connection:
            rows = (await connection.execute(_ENDED, {"sagas": ids})).all()
        for row in rows:
            outcome = Outcome.model_validate_json(row.outcome)
            for ended in self._waiting.pop(row.id, []):
                if not ended.done():
                    ended.set_result(outcome)
        return len(rows)

    def _forget(self) -> None:
        """Those that nobody waits for any more."""
        for key in [key for key, waiting in self._waiting.items() if all(one.done() for one in waiting)]:
            del self._waiting[key]
