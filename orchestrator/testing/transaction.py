"""A step's transaction for unit tests of operations, on a temporary SQLite database."""

import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import MetaData
from sqlmodel import SQLModel, select

from orchestrator.protocol.messages.envelope import Envelope, read, saga_id
from orchestrator.store.core.database import Database
from orchestrator.store.core.misuse_guard import guarded
from orchestrator.store.core.schema import metadata, saga_outbox
from orchestrator.store.core.schema import saga as sagas
from orchestrator.transaction import Transaction


@asynccontextmanager
async def step_transaction(
    tables: MetaData = SQLModel.metadata,
    *,
    event_id: str = "event-1",
    event_time: datetime = datetime(2026, 1, 1, tzinfo=UTC),
) -> AsyncGenerator[Transaction]:
    """Open a `Transaction` like the one that an operation receives, on a SQLite database that is deleted afterwards.

        async with step_transaction() as tx:
            tx.add(Account(...))
            assert await withdraw.body(tx, USER, ACCOUNT, amount) == amount

    Args:
        tables: the tables to create; by default every SQLModel table that is imported.
        event_id: the event's id that the operation sees.
        event_time: the event's time that the operation sees, in UTC.
    """
    with tempfile.TemporaryDirectory(prefix="step-") as folder:
        database = Database(f"sqlite:///{Path(folder) / 'step.db'}")
        try:
            async with database.transaction() as connection:
                await connection.run_sync(tables.create_all)
                # `outbox.add` reads the table of sagas and writes the outbox.
                await connection.run_sync(metadata.create_all, tables=[sagas, saga_outbox])
                saga = saga_id("step_transaction", event_id)
                tx = Transaction(connection, saga=saga, step=1, event_id=event_id, event_time=event_time)
                async with guarded(connection, "operation"):
                    yield tx
                    await tx.flush()
        finally:
            await database.close()


async def added_events(tx: Transaction) -> list[Envelope]:
    """Return the events that this transaction added with `outbox.add`, in order."""
    return [read(text) for text in await tx.exec(select(saga_outbox.c.envelope).order_by(saga_outbox.c.id))]
