"""A person intervenes: `cancel`, `retry` and `skip` on the real server and on both databases."""

import json
import os
import pty
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import delete, insert
from sqlmodel import select
from temporalio.client import Client

from orchestrator import Transaction
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.commands import STUCK_AFTER, Phase, SagaRef, StepState, UndoCommand
from orchestrator.protocol.messages.envelope import saga_id
from orchestrator.retry import LOCAL_ATTEMPTS
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga
from orchestrator.store.queries.sagas import SagaView, sagas_of_event
from orchestrator.store.saga.steps import StoreSteps
from tests import cast
from tests.cast import Script, box, fails, refuses
from tests.cast_events import CoinsMoveRequested, ParallelMoveRequested
from tests.cli import mailing
from tests.cli.conftest import shell_of
from tests.cli.mailing import Mailing, MailingRequested
from tests.cli.shell import Ran, Shell, ended
from tests.house import CATALOG, House, eventually, new_id, open_house
from tests.orchestrators import CoinsMove

on_sqlite = pytest.mark.parametrize("kind", ["sqlite"])
"""For tests of what does not depend on the database."""
EVENT = CoinsMoveRequested(source="a", target="b", coins=10)
COMMANDS = (("cancel",), ("retry",), ("skip", "1", "--reason", "by hand"))


def typed(command: tuple[str, ...], event_id: str) -> tuple[str, ...]:
    """The words of a command about an event."""
    return (command[0], event_id, *command[1:])


async def read_saga(database: Database, event_id: str) -> SagaView:
    """Read the only saga of an event."""
    [view] = await sagas_of_event(database, event_id)
    return view


async def until_stuck(house: House, event_id: str) -> None:
    """Wait until the saga is shown as stuck."""

    async def is_stuck() -> bool:
        return any(saga.is_stuck for saga in await sagas_of_event(house.database, event_id))

    await eventually(is_stuck, "the saga is stuck")


async def needs_box_b(tx: Transaction) -> None:
    """Fail if the row of box `b` is missing, as SmartExpense's compensations do."""
    if (await tx.exec(select(box.c.name).where(box.c.name == "b"))).first() is None:
        raise LookupError("the box b is gone")


async def failing_at(house: House, step: str) -> str:
    """Return the id of an event whose saga keeps failing at a step, beyond its local attempts."""
    event_id = new_id()
    Script.before[step] = fails()
    await house.bus.publish(EVENT, event_id=event_id)

    async def has_failed() -> bool:
        return Script.runs.count(step) > LOCAL_ATTEMPTS + 1

    await eventually(has_failed, f"{step} has failed")
    return event_id


async def broken_by_a_missing_row(house: House) -> str:
    """Return the id of an event whose saga is stuck in its undo, because a row that a compensation needs is missing."""
    event_id = await failing_at(house, "write_note")
    async with house.database.transaction() as connection:
        await connection.execute(delete(box).where(box.c.name == "b"))
    Script.before["take_out"] = needs_box_b
    Script.before["write_note"] = refuses("note.too_long")
    await until_stuck(house, event_id)
    return event_id


async def give_back_the_row(house: House) -> None:
    """Insert the row as it was before it was deleted."""
    async with house.database.transaction() as connection:
        await connection.execute(insert(box).values(name="b", coins=10))


async def signals_of(house: House, workflow_id: str) -> list[str]:
    """Return the names of the signals that an execution has received."""
    history = await house.client.get_workflow_handle(workflow_id).fetch_history()
    attributes = [event.workflow_execution_signaled_event_attributes for event in history.events]
    return [signaled.signal_name for signaled in attributes if signaled.signal_name]


async def until_ended(house: House, event_id: str) -> SagaView:
    """Wait until the saga has ended and return it."""

    async def has_ended() -> bool:
        return (await read_saga(house.database, event_id)).phase.is_final

    await eventually(has_ended, "the saga has ended")
    return await read_saga(house.database, event_id)


async def test_a_compensation_that_fails_for_a_missing_row_is_skipped_and_the_saga_ends(
    house: House, at_home: Shell
) -> None:
    event_id = await broken_by_a_missing_row(house)
    status = await at_home.run("status", event_id)
    listed = await at_home.run("list", "--stuck", "--json")

    skipped = await at_home.run(
        "skip", event_id, "2", "--reason", "box b was thrown away", "--as", "olena", "--yes", "--json"
    )

    assert (status.code, skipped.code) == (4, 1), f"{status}\n{skipped}"
    assert status.out.startswith("stuck ")
    assert "stuck at step 2 for " in status.out
    assert "LookupError: the box b is gone" in status.out
    assert f"orchestrator retry {event_id} " in status.out
    assert f"orchestrator skip {event_id} 2 --reason ... " in status.out
    assert [saga["event_id"] for saga in listed.document["sagas"]] == [event_id]
    document = skipped.document
    assert (document["did"], document["skipped_by"], document["skip_reason"]) == (
        "skipped",
        "olena",
        "box b was thrown away",
    )
    assert (document["sagas"][0]["phase"], document["sagas"][0]["error_code"]) == ("failed", "note.too_long")
    assert "cast.take_out(name='b', coins=10)" in skipped.err
    assert await signals_of(house, f"CoinsMove/event/{event_id}") == ["event", "retry"]
    await check_that_it_stays_skipped(house, event_id)
    after = await at_home.run("status", event_id)
    assert "  skipped   step 2: cast.put  (" in after.out
    assert "skipped by olena: box b was thrown away" in after.out
    assert (await at_home.run("list", "--stuck")).out.startswith("No saga matches.")


async def check_that_it_stays_skipped(house: House, event_id: str) -> None:
    """The failed event says so, and a late attempt of the compensation changes nothing, though its row exists again."""
    ended = await read_saga(house.database, event_id)
    [sent] = await house.outbox()
    undone: list[dict[str, Any]] = json.loads(sent.envelope)["data"]["undone"]
    assert [(step["operation"], step["skipped"]) for step in undone] == [("cast.put", True), ("cast.take", False)]
    await give_back_the_row(house)
    before, runs = await house.holdings(), list(Script.runs)
    late = UndoCommand(
        saga=SagaRef(id=ended.id, orchestrator="CoinsMove", event_id=event_id),
        number=2,
        operation="cast.put",
        event_time=datetime.now(UTC).isoformat(),
    )

    await StoreSteps(house.database, house.catalog).undo(late, "cast.take_out")

    assert await house.holdings() == before
    assert before.boxes == {"a": 100, "b": 10}
    assert Script.runs == runs
    assert await read_saga(house.database, event_id) == ended


async def test_a_retry_takes_effect_at_once_when_the_cause_was_fixed(house: House, at_home: Shell) -> None:
    event_id = await broken_by_a_missing_row(house)

    async def has_long_backoff() -> bool:
        return (await read_saga(house.database, event_id)).steps[1].undo_attempts > 2 * STUCK_AFTER + 1

    await eventually(has_long_backoff, "the next attempt is six seconds away", within=60.0)
    await give_back_the_row(house)

    ran = await at_home.run("retry", event_id)

    assert ran.code == 0, ran
    assert ran.out.startswith(f"accepted  CoinsMove/event/{event_id} retries now: stuck at step 2 for ")
    ended = await until_ended(house, event_id)
    assert [step.state for step in ended.steps] == [StepState.UNDONE, StepState.UNDONE, StepState.REFUSED]
    assert await signals_of(house, f"CoinsMove/event/{event_id}") == ["event", "retry"]
    assert (await house.holdings()).boxes == {"a": 100, "b": 0}


async def test_a_cancel_shows_its_plan_the_last_step_first_and_undoes_it(house: House, at_home: Shell) -> None:
    before = await house.holdings()
    event_id = await failing_at(house, "write_note")

    ran = await at_home.run("cancel", event_id, "--yes")

    assert ran.code == 1, ran
    plan = ["  step 2: cast.take_out(name='b', coins=10)", "  step 1: cast.give_back(name='a', coins=10)"]
    assert [line for line in ran.out.splitlines() if line.startswith("  step ")] == plan
    assert [line.split() for line in ran.out.splitlines() if line.startswith("  undone")] == [
        ["undone", "step", "2:", "cast.put"],
        ["undone", "step", "1:", "cast.take"],
    ]
    assert "\ncancelled saga.cancelled: " in ran.out
    assert await house.holdings() == before
    assert (await read_saga(house.database, event_id)).phase is Phase.CANCELLED


@on_sqlite
async def test_queries_are_left_out_of_the_plan(house: House, at_home: Shell) -> None:
    event_id = new_id()
    Script.before["put"] = fails()
    await house.bus.publish(ParallelMoveRequested(source="a", target="b", coins=10), event_id=event_id)

    async def two_are_done() -> bool:
        return len(await house.steps()) == 2 and Script.runs.count("put") > 1

    await eventually(two_are_done, "the query and the first operation are done")
    ran = await at_home.run("cancel", event_id, "--yes", "--json")

    assert ran.code == 1, ran
    assert [step["compensation"] for step in ran.document["plan"]] == ["cast.give_back(name='a', coins=10)"]
    assert ran.document["did"] == "cancelled"


@on_sqlite
@pytest.mark.parametrize("command", [("cancel",), ("skip", "2", "--reason", "by hand")], ids=" ".join)
async def test_without_a_terminal_nothing_is_done_unless_it_is_confirmed(
    command: tuple[str, ...], house: House, at_home: Shell
) -> None:
    event_id = await broken_by_a_missing_row(house) if command[0] == "skip" else await failing_at(house, "write_note")
    before = await house.holdings()

    plain = await at_home.run(*typed(command, event_id))
    in_json = await at_home.run(*typed(command, event_id), "--json")

    assert (plain.code, in_json.code) == (2, 2), plain
    assert plain.err.startswith(
        "Nothing was done, because this command asks for confirmation and stdin is not a terminal."
    )
    assert in_json.document["error"]["code"] == "usage"
    assert await house.holdings() == before
    assert not (await read_saga(house.database, event_id)).phase.is_final


@on_sqlite
@pytest.mark.parametrize(("answer", "code"), [("n", 130), ("", 130), ("yes", 1)])
async def test_on_a_terminal_a_person_is_asked(answer: str, code: int, house: House, at_home: Shell) -> None:
    event_id = await failing_at(house, "write_note")

    ran = await on_a_terminal(at_home, answer, "cancel", event_id)

    assert ran.code == code, ran
    assert "Undo it? [y/N]" in ran.err
    assert (await read_saga(house.database, event_id)).phase.is_final == (answer == "yes")


async def on_a_terminal(shell: Shell, answer: str, *arguments: str) -> Ran:
    """Run a command on a terminal and answer its question."""
    controller, terminal = pty.openpty()
    try:
        process = await shell.start(*arguments, stdin=terminal)
        os.write(controller, f"{answer}\n".encode())
        return await ended(process)
    finally:
        os.close(controller)
        os.close(terminal)


@on_sqlite
async def test_past_the_pivot_a_cancel_says_that_the_saga_continues_and_asks_nothing(
    mailing_house: House, by_mail: Shell
) -> None:
    event_id = await a_mailing_stuck_at(mailing_house, "stamp")

    ran = await by_mail.run("cancel", event_id)

    assert ran.code == 2, ran
    assert "is past step 2, cast.send_letter, which cannot be undone" in ran.err
    assert "continues until it completes" in ran.err
    assert f"orchestrator skip {event_id} 3 --reason ..." in ran.out
    Script.clear()
    await mailing_house.client.get_workflow_handle(f"Mailing/event/{event_id}").signal("retry")
    assert (await until_ended(mailing_house, event_id)).phase is Phase.COMPLETED


async def test_past_the_pivot_a_step_without_a_result_is_skipped_and_the_saga_completes(
    mailing_house: House, by_mail: Shell
) -> None:
    event_id = await a_mailing_stuck_at(mailing_house, "stamp")

    ran = await by_mail.run("skip", event_id, "3", "--reason", "no stamps left", "--yes")

    assert ran.code == 0, ran
    assert "mailing.stamp(text='sent')" in ran.out
    assert "completed MAILING_COMPLETED" in ran.out
    states = [step.state.value for step in (await read_saga(mailing_house.database, event_id)).steps]
    assert states == ["done", "done", "skipped", "done"]


@on_sqlite
async def test_past_the_pivot_a_step_whose_result_is_needed_cannot_be_skipped(
    mailing_house: House, by_mail: Shell
) -> None:
    event_id = await a_mailing_stuck_at(mailing_house, "file_away")

    ran = await by_mail.run("skip", event_id, "4", "--reason", "no shelf", "--yes", "--json")

    assert ran.code == 2, ran
    assert ran.document["error"]["code"] == "saga.not_skippable"
    assert "because `handle` needs the int that it returns" in ran.document["error"]["message"]


@on_sqlite
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
async def test_a_command_about_an_ended_saga_shows_its_outcome(
    command: tuple[str, ...], house: House, at_home: Shell
) -> None:
    completed, failed = new_id(), new_id()
    await house.bus.execute(CoinsMove, EVENT, event_id=completed)
    Script.before["put"] = refuses()
    [handle] = await house.bus.publish(EVENT, event_id=failed)
    await handle.outcome()

    good = await at_home.run(*typed(command, completed))
    bad = await at_home.run(*typed(command, failed), "--json")

    assert (good.code, bad.code) == (0, 1), f"{good}\n{bad}"
    assert "has already ended, so nothing was done." in good.out
    assert "completed COINS_MOVE_COMPLETED" in good.out
    assert (bad.document["did"], bad.document["sagas"][0]["error_code"]) == (None, "box.refused")


async def test_a_terminated_saga_is_cancelled_without_running_another_step(house: House, at_home: Shell) -> None:
    before = await house.holdings()
    event_id = await failing_at(house, "put")
    await house.client.get_workflow_handle(f"CoinsMove/event/{event_id}").terminate()
    Script.clear()

    ran = await at_home.run("cancel", event_id, "--yes")

    assert ran.code == 1, ran
    assert "No execution drives the saga, so one is started for the undo." in ran.out
    assert "put" not in Script.runs
    ended_saga = await read_saga(house.database, event_id)
    assert ended_saga.phase is Phase.CANCELLED
    assert (ended_saga.message or "").startswith("cancelled by ")
    assert await house.holdings() == before


@on_sqlite
async def test_a_retry_resumes_a_terminated_saga(house: House, at_home: Shell) -> None:
    event_id = await failing_at(house, "put")
    await house.client.get_workflow_handle(f"CoinsMove/event/{event_id}").terminate()
    Script.clear()

    ran = await at_home.run("retry", event_id, "--json")

    assert ran.code == 0, ran
    assert ran.document["did"] == "started"
    assert (await until_ended(house, event_id)).phase is Phase.COMPLETED


@on_sqlite
async def test_a_cancel_only_follows_a_saga_that_is_already_being_undone(house: House, at_home: Shell) -> None:
    event_id = await broken_by_a_missing_row(house)

    ran = await at_home.run("cancel", event_id, "--timeout", "0.2")

    assert ran.code == 4, ran
    assert "is already being undone, to end as failed (note.too_long: " in ran.out
    assert "  step 2: cast.take_out(name='b', coins=10)" in ran.out
    assert "has not finished within 0.2 s and continues: stuck at step 2" in ran.err
    assert f"orchestrator skip {event_id} 2 --reason ..." in ran.out


@on_sqlite
async def test_an_event_that_no_worker_has_started_is_cancelled_once_a_worker_runs(
    empty_house: House,
) -> None:
    [handle] = await empty_house.bus.publish(EVENT)
    shell = shell_of(empty_house)

    accepted = await shell.run("cancel", handle.event_id, "--yes", "--no-wait")
    waited = await shell.run("cancel", handle.event_id, "--yes", "--timeout", "0.5")
    async with empty_house.another_worker():
        outcome = await handle.outcome()

    assert (accepted.code, waited.code) == (0, 4), f"{accepted}\n{waited}"
    assert "undoes nothing, because no completed step" in accepted.out
    assert "no worker polls the task queue" in waited.err
    assert outcome.phase is Phase.CANCELLED


@on_sqlite
async def test_a_retry_of_a_saga_that_waits_for_none_changes_nothing_and_says_so(empty_house: House) -> None:
    [handle] = await empty_house.bus.publish(EVENT)

    ran = await shell_of(empty_house).run("retry", handle.event_id, "--json")

    assert ran.code == 0, ran
    assert ran.document["did"] == "nothing"
    assert "is not waiting for a retry, so nothing was changed" in ran.err
    async with empty_house.another_worker():
        assert (await handle.outcome()).phase is Phase.COMPLETED


@on_sqlite
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("1", "--reason", " "), "--reason is empty"),
        (("1", "--reason", "..."), "Write a few words"),
        (("1", "--reason", "so", "--as", " "), "--as is empty"),
        (("1",), "--reason"),
        (("0", "--reason", "so"), "STEP"),
        (("9", "--reason", "so", "--yes"), "has no step 9; its steps are 1, 2"),
        (("1", "--reason", "so", "--yes"), "because the saga still goes forward and can be undone"),
    ],
    ids=str,
)
async def test_an_invalid_skip_is_rejected_with_one_sentence(
    arguments: tuple[str, ...], message: str, house: House, at_home: Shell
) -> None:
    event_id = await failing_at(house, "write_note")

    ran = await at_home.run("skip", event_id, *arguments)

    assert ran.code == 2, ran
    assert message in ran.err
    assert ran.out == ""


@on_sqlite
async def test_a_second_skip_shows_who_made_the_first(house: House, at_home: Shell) -> None:
    event_id = await broken_by_a_missing_row(house)
    Script.before["give_back"] = fails()
    first = await at_home.run("skip", event_id, "2", "--reason", "first", "--as", "olena", "--yes", "--no-wait")

    second = await at_home.run("skip", event_id, "2", "--reason", "second", "--as", "taras", "--no-wait", "--json")

    assert (first.code, second.code) == (0, 0), f"{first}\n{second}"
    assert second.document["did"] == "nothing"
    assert (second.document["skipped_by"], second.document["skip_reason"]) == ("olena", "first")
    Script.clear()
    await at_home.run("retry", event_id)
    assert (await until_ended(house, event_id)).phase is Phase.FAILED


@on_sqlite
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
async def test_an_orchestrator_must_be_named_if_several_sagas_of_the_event_are_open(
    command: tuple[str, ...], empty_house: House
) -> None:
    event_id = new_id()
    for name in ("CoinsMove", "Letter"):
        await write_row(empty_house.database, event_id, name)
    shell = shell_of(empty_house)

    unnamed = await shell.run(*typed(command, event_id), "--json")
    wrong = await shell.run(*typed(command, event_id), "--orchestrator", "Nobody")
    status = await shell.run("status", event_id)

    assert (unnamed.code, wrong.code) == (2, 2), f"{unnamed}\n{wrong}"
    assert unnamed.document["error"]["code"] == "saga.ambiguous"
    assert "CoinsMove, Letter" in unnamed.document["error"]["message"]
    assert "Nobody has no saga for that event" in wrong.err
    assert f"orchestrator retry {event_id} --orchestrator Letter" in status.out


@on_sqlite
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
async def test_an_unknown_event_is_exit_code_2(command: tuple[str, ...], house: House, at_home: Shell) -> None:
    ran = await at_home.run(*typed(command, "never-published"), "--json")

    assert ran.code == 2, ran
    assert ran.document["error"]["code"] == "saga.unknown"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
async def test_without_temporal_nothing_is_changed_and_the_exit_code_is_3(
    command: tuple[str, ...], nowhere: Shell
) -> None:
    ran = await nowhere.run(*typed(command, "order-17"))

    assert ran.code == 3, ran
    assert nowhere.variables["TEMPORAL_ADDRESS"] in ran.err


@pytest.fixture
async def empty_house(database: Database, client: Client) -> AsyncGenerator[House]:
    """A running application without a worker."""
    async with open_house(client, database, CATALOG, task_queue=f"empty-{uuid4()}", working=False) as opened:
        yield opened


@pytest.fixture
async def mailing_house(database: Database, client: Client) -> AsyncGenerator[House]:
    """A running application whose orchestrator has steps after a pivot."""
    catalog = Catalog.of(
        orchestrators=[Mailing], operations=[cast.take, cast.send_letter, mailing.stamp, mailing.file_away]
    )
    async with open_house(client, database, catalog, task_queue=f"mailing-{uuid4()}") as opened:
        yield opened


@pytest.fixture
def by_mail(mailing_house: House) -> Shell:
    """A shell for that application."""
    return shell_of(mailing_house).at(ORCHESTRATOR_PACKAGES="tests.cast,tests.cli.mailing")


async def a_mailing_stuck_at(house: House, step: str) -> str:
    """Return the id of an event whose saga is stuck at a step past its pivot."""
    event_id = new_id()
    Script.before[step] = fails()
    await house.bus.publish(MailingRequested(source="a"), event_id=event_id)
    await until_stuck(house, event_id)
    return event_id


async def write_row(database: Database, event_id: str, orchestrator: str) -> None:
    """Write a saga's row without an execution."""
    async with database.transaction() as connection:
        await connection.execute(
            insert(saga).values(
                id=saga_id(orchestrator, event_id),
                orchestrator=orchestrator,
                event_id=event_id,
                envelope="{}",
                event_type="COINS_MOVE_REQUESTED",
                event_version=1,
                content_digest="",
                phase=Phase.FORWARD.value,
                created_at=datetime.now(UTC),
            )
        )
