"""What a person sees of locks: the holder, and the sagas that wait for it in order; from the database alone."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from uuid import uuid4

import pytest
from temporalio.client import Client

from orchestrator.cli.diagnosis.blocked_reason import BlockedReason
from orchestrator.cli.diagnosis.event import diagnose
from orchestrator.cli.main import run
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.commands import Phase
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.queries.locks import held_lock, held_locks
from orchestrator.store.queries.sagas import sagas_of_event
from orchestrator.store.saga.intervention import cancel_saga
from tests import cast
from tests.cli.shell import Ran, Shell
from tests.house import House, new_id, open_house
from tests.orchestrators import TurnTaking
from tests.store.test_locks import opened, opening
from tests.temporal.test_waiting_for_locks import start_waiting

on_sqlite = pytest.mark.parametrize("kind", ["sqlite"])


Typed = Callable[[str], Awaitable[Ran]]


@pytest.fixture
def typed(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Awaitable[Ran]]:
    """Runs a command for this database, in this process, because nothing here needs another one."""
    monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", database.url.render_as_string(hide_password=False))
    monkeypatch.setenv("ORCHESTRATOR_PACKAGES", "tests.cast,tests.orchestrators")

    async def run_command(line: str) -> Ran:
        capsys.readouterr()
        code = await asyncio.to_thread(run, line.split())
        output = capsys.readouterr()
        return Ran(code, output.out, output.err)

    return run_command


@pytest.fixture
async def waiting_sagas(database: Database, client: Client) -> AsyncGenerator[House]:
    """Three sagas without a worker, in order of arrival: `two` waits for `one`, and `three` for both."""
    catalog = Catalog.of(orchestrators=[TurnTaking], operations=[cast.take, cast.put])
    async with open_house(client, database, catalog, task_queue=f"waiting-{uuid4()}", working=False) as house:
        for saga_opening in (opening("one", "user/1"), opening("two", "user/1", "user/2"), opening("three", "user/1")):
            await opened(database, saga_opening)
        yield house


async def test_status_names_the_lock_that_a_saga_waits_for_and_its_holder(
    waiting_sagas: House, nowhere: Shell, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", nowhere.variables["TEMPORAL_ADDRESS"])

    plain, in_json = await typed("status three"), await typed("status three --json")
    listed, listed_json = await typed("list"), await typed("list --json")
    held, held_json = await typed("locks"), await typed("locks --json")
    queue = await typed("locks user/1")

    assert (plain.code, in_json.code) == (4, 4), plain
    assert plain.out.startswith("waiting   TurnTaking ")
    assert "not done: waits for the lock user/1, held by TurnTaking one, 2 ahead of it\n" in plain.out
    assert " status one  # shows the saga that it waits for" in plain.out
    [document] = in_json.document["sagas"]
    assert (document["phase"], document["is_waiting"], document["blocked_reason"]) == ("forward", True, "locked")
    holder = {"orchestrator": "TurnTaking", "event_id": "one"}
    assert document["waits_for"] == [{"lock": "user/1", "holder": holder, "before": 2}]

    states = {row.split()[0]: row.split()[2] for row in listed.out.splitlines()[1:4]}
    assert states == {"one": "forward", "two": "waiting", "three": "waiting"}
    assert [(saga["event_id"], saga["is_waiting"]) for saga in listed_json.document["sagas"]] == [
        ("three", True),
        ("two", True),
        ("one", False),
    ]

    assert [row.split()[:4] for row in held.out.splitlines()[1:3]] == [
        ["user/1", "one", "TurnTaking", "forward"],
        ["user/2", "two", "TurnTaking", "forward"],
    ]
    assert "2 held" in held.out
    assert [row.split()[:2] for row in queue.out.splitlines()[1:4]] == [["holds", "one"], ["1", "two"], ["2", "three"]]
    assert [(lock["key"], lock["waiting"]) for lock in held_json.document["locks"]] == [("user/1", 2), ("user/2", 0)]


async def test_the_longest_queue_is_first_and_a_shortened_one_is_counted(waiting_sagas: House) -> None:
    locks, held = await held_locks(waiting_sagas.database, limit=1)
    cut = await held_lock(waiting_sagas.database, "user/1", limit=1)
    alone = await held_lock(waiting_sagas.database, "user/2", limit=1)

    assert [(lock.key, lock.waiting) for lock in locks] == [("user/1", 2)]
    assert held == 2
    assert cut is not None
    assert (cut.holder.event_id, cut.waiting, [waiting.event_id for waiting in cut.queue]) == ("one", 2, ["two"])
    assert alone is not None
    assert (alone.holder.event_id, alone.waiting, alone.queue) == ("two", 0, ())


@on_sqlite
async def test_a_saga_that_is_being_undone_waits_for_no_lock(waiting_sagas: House) -> None:
    saga_opening = opening("two")
    assert await cancel_saga(waiting_sagas.database, saga_opening.saga.id, by="a test") is Phase.UNDOING

    [view] = await sagas_of_event(waiting_sagas.database, "two")

    assert (view.phase, view.is_waiting, view.blocked_by) == (Phase.UNDOING, False, ())


@on_sqlite
async def test_a_lock_without_a_holder_is_shown_as_free(database: Database, typed: Typed) -> None:
    nothing, free, free_json = await typed("locks"), await typed("locks user/1"), await typed("locks user/1 --json")

    assert (nothing.code, nothing.out) == (0, "No lock is held.\n")
    assert free.out.startswith("No saga holds the lock user/1.")
    assert free_json.document == {"locks": [], "held": 0}


@on_sqlite
async def test_temporal_adds_to_a_waiting_saga_only_that_nothing_drives_it(house: House) -> None:
    event_id = new_id()
    waiting = await start_waiting(house, event_id)
    settings = Settings(
        database_url=house.database.url.render_as_string(hide_password=False), packages=("tests.orchestrators",)
    )

    [driven] = (await diagnose(settings, event_id, house.client)).sagas
    await house.client.get_workflow_handle(driven.workflow_id).terminate()
    [terminated] = (await diagnose(settings, event_id, house.client)).sagas
    waiting.cancel()

    sentence = "waits for the lock k, held by TurnTaking holder, 1 ahead of it"
    assert (driven.why, driven.blocked_reason, driven.phase) == (sentence, BlockedReason.LOCKED, "waiting")
    assert terminated.blocked_reason is BlockedReason.CLOSED
    assert terminated.why is not None
    assert terminated.why.startswith(f"{sentence}; its execution has ended as terminated")
    assert [what for _, what in terminated.next_commands] == [
        "resumes the saga",
        "shows the saga that it waits for",
    ]
