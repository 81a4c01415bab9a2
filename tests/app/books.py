"""SmartExpense without Temporal: its operations on a new database, one transaction per step as in the engine."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from uuid import UUID, uuid4

from pydantic import JsonValue

from orchestrator import DomainEvent, Orchestrator, Refused, Saga, Transaction
from orchestrator.operation import OperationCall
from orchestrator.protocol.messages.envelope import saga_id
from orchestrator.saga import Awaited
from orchestrator.store.core.database import Database
from starter.invariants import Snapshot, snapshot, violations
from starter.seed import seed

R = TypeVar("R")
Completed = TypeVar("Completed", bound=DomainEvent)

EVENT_TIME = datetime(2026, 3, 14, 15, 9, 26, 535_897, tzinfo=UTC)


@asynccontextmanager
async def new_books(*, accounts: bool = True) -> AsyncGenerator["Books"]:
    """Create SQLite books with the demo's data."""
    with TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'books.db'}")
        try:
            async with database.transaction() as connection:
                await seed(connection, accounts=accounts)
            yield Books(database)
        finally:
            await database.close()


class Books:
    """The application's database, with what a test does to it and asks about it.

    While only whole sagas have run on it, every invariant must hold after each of them.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.has_only_sagas = True
        self.in_progress = 0

    async def run(self, call: OperationCall[R]) -> R:
        """Run one operation outside of any saga."""
        return await ImmediateSaga(self, "single", event_id=f"single-{uuid4()}").execute(call)

    async def undo(self, call: OperationCall[Any], result: JsonValue = None) -> None:
        """Undo an operation, with the result that its step would have recorded."""
        async with self.database.transaction() as connection:
            tx = a_transaction(connection, uuid4(), 1, "undo")
            await call.operation.compensate(tx, call.arguments, result)
            await tx.flush()
            await tx.close()

    async def handle(
        self, orchestrator: type[Orchestrator[Any, Completed, Any]], event: DomainEvent, *, event_id: str | None = None
    ) -> Completed:
        """Run a whole saga, and undo it if an operation or `handle` refuses; then check the invariants."""
        has_only_sagas = self.has_only_sagas
        self.in_progress += 1
        saga = ImmediateSaga(self, orchestrator.__name__, event_id=event_id or f"event-{uuid4()}")
        try:
            return await orchestrator().handle(event, saga)
        except Refused:
            await saga.undo()
            raise
        finally:
            self.has_only_sagas = has_only_sagas
            self.in_progress -= 1
            # While other sagas are in progress, the invariants need not hold.
            assert not has_only_sagas or self.in_progress or await self.violations() == []

    async def snapshot(self) -> Snapshot:
        """Read every row of every table."""
        async with self.database.reading() as connection:
            return await snapshot(connection)

    async def violations(self) -> list[str]:
        """Return the invariants that do not hold."""
        async with self.database.reading() as connection:
            return await violations(connection)

    async def row(self, table: str, *key: str) -> dict[str, Any]:
        """Read one row by its key."""
        return dict((await self.snapshot())[table][key])

    async def write(self, statement: Any) -> None:
        """Change rows without an operation."""
        self.has_only_sagas = False
        async with self.database.transaction() as connection:
            await connection.execute(statement)


class ImmediateSaga(Saga):
    """A saga that runs each step at once in its own transaction, passes values through JSON, and can undo its steps."""

    def __init__(self, books: Books, orchestrator: str, *, event_id: str) -> None:
        super().__init__(saga_id=saga_id(orchestrator, event_id), event_id=event_id, event_time=EVENT_TIME)
        self._books = books
        books.has_only_sagas = False
        self.done: list[tuple[OperationCall[Any], JsonValue]] = []

    async def sleep(self, duration: timedelta) -> None:
        """Return at once."""

    async def wait_for(
        self, event: type[Awaited], *, matching: Callable[[Awaited], bool] | None = None, timeout: timedelta
    ) -> Awaited | None:
        """Return None, because no event is ever sent."""
        return None

    async def _run(self, calls: Sequence[OperationCall[Any]], *, parallel: bool) -> list[Any]:
        return [await self._step(call) for call in calls]

    async def _step(self, call: OperationCall[Any]) -> Any:
        async with self._books.database.transaction() as connection:
            tx = a_transaction(connection, self.saga_id, len(self.done) + 1, self.event_id)
            try:
                signature = call.operation.signature
                returned = await call.operation.body(tx, **signature.load_arguments(call.arguments))
                await tx.flush()
                result = signature.dump_result(returned)
            finally:
                await tx.close()
        self.done.append((call, result))
        return signature.load_result(result)

    async def undo(self) -> None:
        """Undo the completed steps, the last one first."""
        while self.done:
            call, result = self.done.pop()
            if call.operation.undo is not None:
                await self._books.undo(call, result)


def a_transaction(connection: Any, saga: UUID, step: int, event_id: str) -> Transaction:
    """Return a step's transaction on a connection."""
    return Transaction(connection, saga=saga, step=step, event_id=event_id, event_time=EVENT_TIME)
