"""The transaction of a step, in which an operation makes its changes."""

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
"""The key in a connection's info that is set while a session flushes, because SQLAlchemy rolls back a failed flush."""


class _StepSession(Session):
    """A session that marks its flushes, so that the rollback after a failed flush is not mistaken for the author's."""

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        if self.is_active and not (self.new or self.dirty or self.deleted):  # called before each statement
            super().flush(objects)
            return
        info = self.connection().info
        info[FLUSHING] = True
        try:
            super().flush(objects)
        finally:
            info.pop(FLUSHING, None)


class Transaction(AsyncSession):
    """SQLModel's `AsyncSession` inside the step's transaction.

    The engine commits it together with the step's record, so an operation may neither commit nor roll back; either
    raises `TransactionMisuse` before any harm is done. `begin_nested()` (a savepoint) is allowed.
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
        # Each call of an atomic step has its own sequence of ids.
        self._step = f"{step}" if call is None else f"{step}/call/{call}"
        self._drawn = 0
        self.event_id = event_id
        """The id of the event that started the saga."""
        self.event_time = event_time
        """When the event happened, in UTC. Unlike a clock, it is the same on every attempt."""

    @property
    def saga_id(self) -> UUID:
        """The saga's id."""
        return self._saga

    def uuid(self) -> UUID:
        """Return a new id that is the same on every attempt. It is derived from the saga, the step, and a counter."""
        self._drawn += 1
        return uuid5(self._saga, f"step/{self._step}/{self._drawn}")

    async def write_out(self) -> None:
        """Flush if there are changes to flush or an error to report; the check costs less than an empty flush."""
        session = self.sync_session
        failed_before = not session.is_active  # the author swallowed the error; the flush raises it again
        if failed_before or session.new or session.dirty or session.deleted:
            await self.flush()

    async def commit(self) -> NoReturn:
        """Raise an error, because the engine commits.

        Raises:
            TransactionMisuse: always.
        """
        raise TransactionMisuse(
            "an operation may not commit, because its effect would be stored without the step's record, and would then "
            "happen twice. Just return; for a separate part use `async with tx.begin_nested():`"
        )

    async def rollback(self) -> NoReturn:
        """Raise an error, because the engine rolls back when the operation raises.

        Raises:
            TransactionMisuse: always.
        """
        raise TransactionMisuse(
            "an operation may not roll back, because the step's record would be lost with it. Raise Refused(code, "
            "message), or put the part to roll back into `async with tx.begin_nested():`"
        )
