"""A small run through all sources, and tests of the check that `make sources` ends with."""

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
from tests.house import worker_client
from tests.sources.application import CATALOG
from tests.sources.audit import Books, Findings, Row, audit
from tests.sources.exercise import Exercise
from tests.sources.garbage import KINDS
from tests.sources.marks import tables
from tests.sources.plan import SOURCES, Plan, plan
from tests.sources.senders import Senders


@pytest.fixture
async def task_queue(database: Database, client: Client) -> AsyncGenerator[str]:
    """The task queue of a running worker."""
    async with database.transaction() as connection:
        await connection.run_sync(tables.create_all)
    await ensure_search_attributes(client)
    queue = f"sources-{uuid4()}"
    manager = Manager(Settings(task_queue=queue, log_level="ERROR"), catalog=CATALOG)
    ready = Ready(worker_client(client), database, CATALOG)
    async with manager.relaying(ready), manager.worker(ready):
        yield queue
        for number in range(1, 5):
            with contextlib.suppress(RPCError):
                await client.get_workflow_handle(f"PooledMark/partition/{number}-of-4").terminate()


async def test_every_source_at_once_finishes_each_good_event_once_and_stores_each_bad_one(
    task_queue: str, database: Database, client: Client
) -> None:
    """Each kind of garbage is sent once among some good events. Without a Web UI, its messages go by a start."""
    # The two databases share one server, so each needs its own ids: an event that has completed would be a repeat.
    sent = plan(seed=7 if database.dialect == "sqlite" else 8, events=60, garbage=0.75)
    bus = EventBus(client, CATALOG, task_queue=task_queue, source="sources")
    storing_bus = EventBus(client, CATALOG, task_queue=task_queue, source="sources", database=database)
    senders = Senders(client, bus, storing_bus, database, task_queue=task_queue)

    findings = await Exercise(sent, senders, client, database, task_queue=task_queue).run()

    letters = sum(len(sending.letters) for sending in sent.bad)
    assert findings == Findings(finished=len(sent.good), dead_letters=letters, repeated=findings.repeated)
    assert {sending.kind for sending in sent.bad} >= set(KINDS)


def _books(sent: Plan) -> Books:
    """Rows as they are when everything went well."""
    phases = {event_id: Phase.FAILED if refused else Phase.COMPLETED for event_id, refused in sent.good.items()}
    sagas: list[Row] = [{"event_id": event_id, "phase": phase.value} for event_id, phase in phases.items()]
    completed = [event_id for event_id, phase in phases.items() if phase is Phase.COMPLETED]
    letters: list[Row] = [
        {"id": 1, "code": sending.code, "raw": raw, "size": len(raw), "source": sending.source, "reason": "x"}
        for sending in sent.bad
        for raw in sending.letters
    ]
    return Books(sagas, [{"event_id": event_id} for event_id in completed for _ in range(2)], letters)


PLAN = plan(seed=1, events=400)


def _without_a_saga(books: Books) -> None:
    books.sagas.pop()


def _with_an_extra_mark(books: Books) -> None:
    books.marks.append(books.marks[0])


def _with_an_open_saga(books: Books) -> None:
    books.sagas[0] = {**books.sagas[0], "phase": "forward"}


def _without_a_letter(books: Books) -> None:
    books.letters.pop()


def _with_another_code(books: Books) -> None:
    books.letters[0] = {**books.letters[0], "code": "event.no_such_code"}


def _with_a_truncated_letter(books: Books) -> None:
    books.letters[0] = {**books.letters[0], "size": 1_000_000_000}


def _with_a_good_events_letter(books: Books) -> None:
    books.letters.append({**books.letters[0], "raw": b"{}", "size": 2})


@pytest.mark.parametrize(
    ("tamper", "kind"),
    [
        (_without_a_saga, "lost"),
        (_with_an_extra_mark, "doubled"),
        (_with_an_open_saga, "wedged"),
        (_without_a_letter, "lost"),
        (_with_another_code, "lost"),
        (_with_a_truncated_letter, "wrong"),
        (_with_a_good_events_letter, "wrong"),
    ],
)
def test_the_check_finds_what_is_missing_and_what_is_too_much(tamper: Callable[[Books], None], kind: str) -> None:
    books = _books(PLAN)
    assert audit(PLAN, books).is_clean

    tamper(books)

    findings = audit(PLAN, books)
    assert getattr(findings, kind)


def test_a_seed_determines_the_plan_and_a_plan_has_every_source_and_every_kind() -> None:
    again = plan(seed=1, events=5_000)

    assert [(sending.source, sending.arguments) for sending in plan(seed=1, events=5_000).sendings] == [
        (sending.source, sending.arguments) for sending in again.sendings
    ]
    assert set(again.by_source()) == set(SOURCES)
    assert {sending.kind for sending in again.bad} == {*KINDS, "a reused id"}
    assert len(again.sendings) == 5_000
    assert len(again.good) == 4_250
