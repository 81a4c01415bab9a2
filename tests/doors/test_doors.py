"""A few of everything through all doors, and the counting that `make doors` ends with."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from uuid import uuid4

import pytest
from temporalio.client import Client
from temporalio.service import RPCError

from orchestrator.client import EventBus
from orchestrator.protocol.commands import Phase
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.worker.process.manager import Manager
from orchestrator.worker.process.prepare import Ready
from orchestrator.worker.search_attributes import ensure_search_attributes
from tests.doors.audit import Books, Findings, Row, audit
from tests.doors.crowd import Crowd
from tests.doors.garbage import KINDS
from tests.doors.house import CATALOG
from tests.doors.marks import tables
from tests.doors.plan import DOORS, Plan, plan
from tests.doors.senders import Senders
from tests.house import worker_client


@pytest.fixture
async def task_queue(database: Database, client: Client) -> AsyncGenerator[str]:
    """Of a worker that is at work behind the doors."""
    async with database.transaction() as connection:
        await connection.run_sync(tables.create_all)
    await ensure_search_attributes(client)
    queue = f"doors-{uuid4()}"
    manager = Manager(Settings(task_queue=queue, log_level="ERROR"), catalog=CATALOG)
    ready = Ready(worker_client(client), database, CATALOG)
    async with manager.relaying(ready), manager.worker(ready):
        yield queue
        for number in range(1, 5):
            with contextlib.suppress(RPCError):
                await client.get_workflow_handle(f"PooledRing/partition/{number}-of-4").terminate()


async def test_through_all_doors_at_once_each_good_event_is_done_once_and_each_bad_one_kept(
    task_queue: str, database: Database, client: Client
) -> None:
    """Each kind of garbage once among some good events; what would come by the Web UI comes by a start here."""
    # Ids of their own on the one server: an event that completed on the other database would be a repeat.
    few = plan(seed=7 if database.dialect == "sqlite" else 8, events=60, garbage=0.75)
    bus = EventBus(client, CATALOG, task_queue=task_queue, source="doors")
    keeping = EventBus(client, CATALOG, task_queue=task_queue, source="doors", database=database)
    senders = Senders(client, bus, keeping, database, task_queue=task_queue)

    found = await Crowd(few, senders, client, database, task_queue=task_queue).go()

    assert found == Findings(finished=len(few.good), kept=sum(len(one.kept) for one in few.bad), twice=found.twice)
    assert {one.kind for one in few.bad} >= set(KINDS)


def _books(made: Plan) -> Books:
    """As they are when everything went well."""
    phases = {event_id: Phase.FAILED if refused else Phase.COMPLETED for event_id, refused in made.good.items()}
    sagas: list[Row] = [{"event_id": one, "phase": phase.value} for one, phase in phases.items()]
    done = [one for one, phase in phases.items() if phase is Phase.COMPLETED]
    letters: list[Row] = [
        {"id": 1, "code": one.code, "raw": raw, "size": len(raw), "door": one.door, "reason": "x"}
        for one in made.bad
        for raw in one.kept
    ]
    return Books(sagas, [{"event_id": one} for one in done for _ in range(2)], letters)


MADE = plan(seed=1, events=400)


def _without_a_saga(books: Books) -> None:
    books.sagas.pop()


def _with_a_mark_more(books: Books) -> None:
    books.marks.append(books.marks[0])


def _with_an_open_saga(books: Books) -> None:
    books.sagas[0] = {**books.sagas[0], "phase": "forward"}


def _without_a_letter(books: Books) -> None:
    books.letters.pop()


def _with_another_code(books: Books) -> None:
    books.letters[0] = {**books.letters[0], "code": "event.no_such_code"}


def _with_a_cut_letter(books: Books) -> None:
    books.letters[0] = {**books.letters[0], "size": 1_000_000_000}


def _with_a_good_events_letter(books: Books) -> None:
    books.letters.append({**books.letters[0], "raw": b"{}", "size": 2})


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (_without_a_saga, "lost"),
        (_with_a_mark_more, "doubled"),
        (_with_an_open_saga, "wedged"),
        (_without_a_letter, "lost"),
        (_with_another_code, "lost"),
        (_with_a_cut_letter, "wrong"),
        (_with_a_good_events_letter, "wrong"),
    ],
)
def test_the_counting_sees_what_is_missing_and_what_is_too_much(spoil: Callable[[Books], None], what: str) -> None:
    books = _books(MADE)
    assert audit(MADE, books).is_clean

    spoil(books)

    found = audit(MADE, books)
    assert getattr(found, what)


def test_the_same_seed_sends_the_same_and_every_door_and_every_kind_is_there() -> None:
    again = plan(seed=1, events=5_000)

    assert [(one.door, one.arguments) for one in plan(seed=1, events=5_000).sendings] == [
        (one.door, one.arguments) for one in again.sendings
    ]
    assert set(again.by_door()) == set(DOORS)
    assert {one.kind for one in again.bad} == {*KINDS, "an id used again"}
    assert len(again.sendings) == 5_000
    assert len(again.good) == 4_250
