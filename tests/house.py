"""A complete application for one test: a database, a worker and a bus that serve the cast's orchestrators."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from sqlalchemy import select
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError
from temporalio.worker import Worker

from orchestrator import DomainEvent, Orchestrator
from orchestrator.client import EventBus
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.commands import Opening, SagaRef
from orchestrator.protocol.lock_keys import lock_keys_of
from orchestrator.protocol.messages.envelope import saga_id, wrap
from orchestrator.protocol.names import partition_workflow_id
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_dead_letter, saga_outbox, saga_step
from orchestrator.worker.process.manager import Manager
from orchestrator.worker.process.prepare import Ready
from orchestrator.worker.search_attributes import ensure_search_attributes
from orchestrator.workflow.converter import worker_data_converter
from tests import cast
from tests.cast import box, note
from tests.closing import ClosingBus
from tests.orchestrators import (
    Approval,
    AtomicMove,
    Bulky,
    CoinsMove,
    Flawed,
    Hurry,
    LateApproval,
    Letter,
    ManyNotes,
    Nap,
    Nothing,
    ParallelMove,
    Parcel,
    Timed,
    Tipped,
    TurnTaking,
)

CATALOG = Catalog.of(
    orchestrators=[
        Approval,
        AtomicMove,
        Bulky,
        CoinsMove,
        Flawed,
        Hurry,
        LateApproval,
        Letter,
        ManyNotes,
        Nap,
        Nothing,
        Parcel,
        ParallelMove,
        Timed,
        Tipped,
        TurnTaking,
    ],
    operations=[cast.take, cast.put, cast.write_note, cast.count, cast.send_letter, cast.deliver, cast.lots],
)


@dataclass(frozen=True)
class Holdings:
    """The coins and notes that the cast's tables hold; tests compare them with what an outcome promises."""

    boxes: dict[str, int]
    notes: int

    @classmethod
    async def of(cls, database: Database) -> "Holdings":
        """Read them from the database."""
        async with database.reading() as connection:
            boxes = {row.name: row.coins for row in await connection.execute(select(box))}
            notes = len((await connection.execute(select(note.c.id))).all())
        return cls(boxes, notes)

    def moved(self, source: str, target: str, coins: int) -> "Holdings":
        """The holdings as one CoinsMove must leave them."""
        boxes = {**self.boxes, source: self.boxes[source] - coins, target: self.boxes[target] + coins}
        return Holdings(boxes, self.notes + 1)


async def rows(database: Database, table: Any) -> list[Any]:
    """Every row of one of the engine's tables."""
    async with database.reading() as connection:
        return list(await connection.execute(select(table)))


@dataclass
class House:
    """A running application: the client, database, bus and worker that belong to one test."""

    client: Client
    database: Database
    catalog: Catalog
    bus: EventBus
    task_queue: str
    manager: Manager
    ready: Ready

    def another_worker(self, **options: Any) -> Worker:
        """Another worker on the same task queue; it runs while its context is open."""
        return self.manager.worker(self.ready, **options)

    async def holdings(self) -> Holdings:
        """Read what the cast's tables hold."""
        return await Holdings.of(self.database)

    async def sagas(self) -> list[Any]:
        """Rows of the saga table."""
        return await rows(self.database, saga)

    async def steps(self) -> list[Any]:
        """Rows of the step table, in order."""
        return sorted(await rows(self.database, saga_step), key=lambda step: (str(step.saga_id), step.number))

    async def outbox(self) -> list[Any]:
        """Rows of the outbox."""
        return await rows(self.database, saga_outbox)

    async def dead_letters(self) -> list[Any]:
        """Rows of the dead letters, in order of arrival."""
        return sorted(await rows(self.database, saga_dead_letter), key=lambda letter: letter.id)


@asynccontextmanager
async def open_house(
    client: Client, database: Database, catalog: Catalog, *, task_queue: str, working: bool = True
) -> AsyncGenerator[House]:
    """Put 100 coins into box `a` and none into `b`, and run a worker if `working`."""
    async with database.transaction() as connection:
        await cast.stock(connection, a=100, b=0)
    settings = Settings(task_queue=task_queue, log_level="ERROR")
    manager = Manager(settings, catalog=catalog)
    await ensure_search_attributes(client)
    ready = Ready(worker_client(client), database, catalog)
    house = House(
        client,
        database,
        catalog,
        ClosingBus(client, catalog, task_queue=task_queue, database=database),
        task_queue,
        manager,
        ready,
    )
    try:
        if working:
            async with manager.worker(ready):
                yield house
        else:
            yield house
    finally:
        await end_partitions(client, catalog)


async def end_partitions(client: Client, catalog: Catalog) -> None:
    """Terminate the running partitions of a catalog's orchestrators.

    Their ids are the same in every test, so the events of the next one would go to a partition on a task queue that no
    worker polls any more.
    """
    for orchestrator in catalog.orchestrators.values():
        for number in range(orchestrator.partitions or 0):
            workflow_id = partition_workflow_id(orchestrator.__name__, number + 1, orchestrator.partitions or 0)
            with contextlib.suppress(RPCError):
                await client.get_workflow_handle(workflow_id).terminate()


def worker_client(client: Client) -> Client:
    """The same connection with the worker's converter."""
    config = client.config()
    config["data_converter"] = worker_data_converter
    return Client(**config)


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, within: float = 20.0) -> None:
    """Poll a condition until it holds; fail with the description `what` if it does not hold in time."""
    try:
        async with asyncio.timeout(within):
            while not await condition():  # noqa: ASYNC110 - the condition is in a database or a server
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {within} s: {what}") from None


async def update(handle: WorkflowHandle[Any, Any], name: str, *arguments: Any) -> Any:
    """Send an update of any name and return its result."""
    return await handle.execute_update(name, args=arguments)  # pyright: ignore[reportUnknownMemberType]


def opening_of(
    orchestrator: type[Orchestrator[Any, Any, Any]], event: DomainEvent, event_id: str, *, owner: str = ""
) -> Opening:
    """The opening that the first step of an event's saga writes."""
    envelope = wrap(event, event_id=event_id, source="tests")
    name = orchestrator.__name__
    locks = lock_keys_of(orchestrator, event)
    return Opening(
        saga=SagaRef(id=saga_id(name, event_id), orchestrator=name, event_id=event_id),
        envelope=envelope.text,
        lock_keys=locks.keys,
        ordering_key=locks.ordering_key,
        owner_workflow_id=owner,
    )


def new_id() -> str:
    """A random event id."""
    return str(uuid4())
