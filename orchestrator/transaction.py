"""The transaction of a step: what an operation is given to work with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID, uuid5

from sqlmodel import Session
from sqlmodel.ext.asyncio.session import AsyncSession

from orchestrator.errors import TransactionMisuse

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


FLUSHING = "orchestrator_flushing"
"""On a connection while a session writes what it holds: SQLAlchemy itself rolls back when that fails."""


class _StepSession(Session):
    """Says when it flushes, so that the rollback after a failed flush is not taken for the author's."""

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        if self.is_active and not (self.new or self.dirty or self.deleted):  # before each statement it asks
            super().flush(objects)
            return
        info = self.connection().info
        info[FLUSHING] = True
        try:
            super().flush(objects)
        finally:
            info.pop(FLUSHING, None)


class Transaction(AsyncSession):
    """SQLModel's `AsyncSession` inside the step's own transaction.

    The engine commits it together with the record that the step was done, so the operation may neither commit nor
    roll back: either raises `TransactionMisuse` before harm is done. `begin_nested()` (a savepoint) is yours.
    """

    sync_session_class = _StepSession

    def __init__(
        self,
        connection: AsyncConnection,
        *,
        saga: UUID,
        step: int,
        event_id: str,
        event_time: datetime,
        call: int | None = None,
    ) -> None:
        super().__init__(bind=connection, expire_on_commit=False, join_transaction_mode="rollback_only")
        self._saga = saga
        # A call of an atomic step, by its place there: each draws ids of its own.
        self._step = f"{step}" if call is None else f"{step}/call/{call}"
        self._drawn = 0
        self.event_id = event_id
        """Id of the event that started the saga."""
        self.event_time = event_time
        """When that event happened, in UTC. The same on every attempt, unlike a clock."""

    @property
    def saga_id(self) -> UUID:
        """Id of the saga."""
        return self._saga

    def uuid(self) -> UUID:
        """A new id, the same on every attempt of this step: made from the saga, the step, and how many were drawn."""
        self._drawn += 1
        return uuid5(self._saga, f"step/{self._step}/{self._drawn}")

    async def write_out(self) -> None:
        """Flush, if there is anything to flush or to tell: asking costs less than a flush of nothing."""
        session = self.sync_session
        failed_before = not session.is_active  # an author swallowed it; the flush says again what it was
        if failed_before or session.new or session.dirty or session.deleted:
            await self.flush()

    async def commit(self) -> NoReturn:
        """Refused: the engine commits.

        Raises:
            TransactionMisuse: always.
        """
        raise TransactionMisuse(
            "an operation may not commit: its effect would stand without the record that it was done, and be done "
            "twice. Just return; for a part of its own use `async with tx.begin_nested():`"
        )

    async def rollback(self) -> NoReturn:
        """Refused: raise instead, and the engine rolls back.

        Raises:
            TransactionMisuse: always.
        """
        raise TransactionMisuse(
            "an operation may not roll back: the record of the step would be lost with it. Raise Refused(code, "
            "message), or put the part to take back in `async with tx.begin_nested():`"
        )
