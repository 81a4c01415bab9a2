"""Outcomes read from the database, for sagas that have no execution of their own to wait for."""

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Text, Uuid, bindparam, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.drive.messages import Outcome
from orchestrator.errors import NotFinished
from orchestrator.store.database import Database

_SOON, _LATER = 0.004, 0.1
"""Seconds between two looks: short while sagas end, growing while none does."""
_CROWD, _SOON_FOR_MANY = 10, 0.015
"""Where so many are waited for, a look is for several that end meanwhile: each costs its client and the database."""
_LOOKED_UP = 500
_ENDED = {
    "postgresql": "SELECT id, outcome FROM saga WHERE outcome IS NOT NULL AND id IN "
    "(SELECT CAST(value AS uuid) FROM json_array_elements_text(CAST(:sagas AS json)))",
    "sqlite": "SELECT id, outcome FROM saga WHERE outcome IS NOT NULL AND id IN (SELECT value FROM json_each(:sagas))",
}
"""One text for any number of sagas, so that it is prepared once."""
_LOOKS = {
    name: text(statement).bindparams(bindparam("sagas", type_=Text())).columns(id=Uuid, outcome=Text)
    for name, statement in _ENDED.items()
}


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
                soon = _SOON if len(self._waiting) < _CROWD else _SOON_FOR_MANY
                pause = soon if found else max(soon, min(pause * 1.5, _LATER))
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
        dialect = self._database.dialect
        known = json.dumps([key.hex if dialect == "sqlite" else str(key) for key in ids])

        async def look(connection: AsyncConnection) -> Sequence[Any]:
            return (await connection.execute(_LOOKS[dialect], {"sagas": known})).all()

        rows = await self._database.read(look)
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
