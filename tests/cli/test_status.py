"""`status` and `list`, while the cast makes sagas wait, fail and get stuck; on both databases."""

import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy import insert
from temporalio.client import Client

from orchestrator.cli.diagnosis.blocked_reason import BlockedReason, reason_of
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.commands import STUCK_AFTER, Phase
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga
from orchestrator.store.queries.sagas import counts, list_sagas, sagas_of_event
from tests import cast
from tests.cast import Gate, Script, fails, refuses
from tests.cast_events import CoinsMoveRequested
from tests.cli.conftest import shell_of
from tests.cli.shell import Shell
from tests.house import House, eventually, new_id, open_house
from tests.misbehaving import Clock
from tests.misbehaving_events import ClockRequested
from tests.orchestrators import CoinsMove

on_sqlite = pytest.mark.parametrize("kind", ["sqlite"])
"""For tests of what does not depend on the database."""
EVENT = CoinsMoveRequested(source="a", target="b", coins=10)


@pytest.fixture
async def empty_house(database: Database, client: Client) -> AsyncGenerator[House]:
    """A running application without a worker."""
    catalog = Catalog.of(orchestrators=[CoinsMove], operations=[cast.take, cast.put, cast.write_note])
    async with open_house(client, database, catalog, task_queue=f"empty-{uuid4()}", working=False) as opened:
        yield opened


async def test_a_completed_saga_shows_its_steps_and_is_exit_code_0(house: House, at_home: Shell) -> None:
    event_id = new_id()
    await house.bus.execute(CoinsMove, EVENT, event_id=event_id)

    plain = await at_home.run("status", event_id)
    in_json = await at_home.run("status", event_id, "--json")

    assert (plain.code, in_json.code) == (0, 0), plain
    assert plain.out.startswith("completed CoinsMove ")
    assert "  done      step 2: cast.put" in plain.out
    [document] = in_json.document["sagas"]
    assert document["phase"] == "completed"
    assert document["why_not_done"] is None
    assert [step["operation"] for step in document["steps"]] == ["cast.take", "cast.put", "cast.write_note"]
    assert {step["state"] for step in document["steps"]} == {"done"}


@on_sqlite
async def test_arguments_are_shown_only_on_request(house: House, at_home: Shell) -> None:
    event_id = new_id()
    await house.bus.execute(CoinsMove, EVENT, event_id=event_id)

    for json_option in ((), ("--json",)):
        hidden = await at_home.run("status", event_id, *json_option)
        shown = await at_home.run("status", event_id, "--arguments", *json_option)
        assert "moved 10" not in hidden.out + hidden.err
        assert "moved 10" in shown.out


@on_sqlite
async def test_a_failed_saga_shows_the_refusal_and_is_exit_code_1(house: House, at_home: Shell) -> None:
    event_id = new_id()
    Script.before["write_note"] = refuses("note.too_long")
    [handle] = await house.bus.publish(EVENT, event_id=event_id)
    await handle.outcome()

    plain = await at_home.run("status", event_id)
    in_json = await at_home.run("status", event_id, "--json")

    assert (plain.code, in_json.code) == (1, 1), plain
    assert "because note.too_long: refused by the script" in plain.out
    states = [(step["state"], step["error_code"]) for step in in_json.document["sagas"][0]["steps"]]
    assert states == [("undone", None), ("undone", None), ("refused", "note.too_long")]


@on_sqlite
async def test_a_running_saga_is_exit_code_4_and_says_what_runs(house: House, at_home: Shell) -> None:
    event_id = new_id()
    Script.before["put"] = gate = Gate()
    [handle] = await house.bus.publish(EVENT, event_id=event_id)
    await gate.reached.wait()

    async def is_running() -> bool:
        # A local attempt is not visible in Temporal; one that takes more than a second becomes a regular one.
        reason = await reason_of(house.client, handle.workflow_id)
        return reason is not None and reason.sentence == "cast.put is running"

    await eventually(is_running, "Temporal shows that the step is running")
    ran = await at_home.run("status", event_id)

    gate.opened.set()
    await handle.outcome()
    assert ran.code == 4, ran
    assert ran.out.startswith("forward ")
    assert "not done: cast.put is running" in ran.out


async def test_a_failing_step_is_shown_with_its_attempt_and_its_last_failure(house: House, at_home: Shell) -> None:
    event_id = new_id()
    Script.before["put"] = fails()
    [handle] = await house.bus.publish(EVENT, event_id=event_id)
    await eventually(lambda: _kind_is(house.client, handle.workflow_id, BlockedReason.RETRYING), "the step is retried")

    ran = await at_home.run("status", event_id, "--json")

    Script.clear()
    await handle.outcome()
    assert ran.code == 4, ran
    [document] = ran.document["sagas"]
    assert document["blocked_reason"] == "retrying"
    assert "cast.put fails, attempt " in document["why_not_done"]
    assert "RuntimeError: the script fails for good" in document["why_not_done"]


@on_sqlite
async def test_a_stuck_saga_shows_the_step_and_its_error(house: House, at_home: Shell) -> None:
    event_id = new_id()
    Script.before["write_note"] = refuses()
    Script.before["take_out"] = fails()
    [handle] = await house.bus.publish(EVENT, event_id=event_id)

    async def is_stuck() -> bool:
        return any(saga.is_stuck for saga in await sagas_of_event(house.database, event_id))

    await eventually(is_stuck, "the saga is stuck")
    ran = await at_home.run("status", event_id)
    listed = await at_home.run("list")

    Script.clear()
    await handle.outcome()
    assert ran.code == 4, ran
    assert ran.out.startswith("stuck ")
    assert "not done: stuck at step 2 for " in ran.out
    [times] = re.findall(r"undoing failed (\d+) times", ran.out)
    assert int(times) >= STUCK_AFTER
    assert "RuntimeError: the script fails for good" in ran.out
    assert "stuck" in listed.out


@on_sqlite
async def test_a_bug_in_handle_is_shown_with_its_exception(database: Database, client: Client) -> None:
    catalog = Catalog.of(orchestrators=[Clock], operations=[cast.take])
    async with open_house(client, database, catalog, task_queue=f"bug-{uuid4()}") as house:
        [handle] = await house.bus.publish(ClockRequested())
        await eventually(lambda: _kind_is(client, handle.workflow_id, BlockedReason.BUG), "the bug is visible")

        reason = await reason_of(client, handle.workflow_id)
        await client.get_workflow_handle(handle.workflow_id).terminate()

    assert reason is not None
    assert "datetime" in reason.sentence


@on_sqlite
async def test_an_accepted_event_that_no_worker_has_started_is_found(empty_house: House) -> None:
    [handle] = await empty_house.bus.publish(EVENT)

    ran = await shell_of(empty_house).run("status", handle.event_id)

    assert ran.code == 4, ran
    assert "nothing is in the database yet; no worker polls the task queue" in ran.out


@on_sqlite
async def test_a_terminated_saga_shows_how_to_resume_it(house: House, at_home: Shell) -> None:
    event_id = new_id()
    Script.before["put"] = gate = Gate()
    [handle] = await house.bus.publish(EVENT, event_id=event_id)
    await gate.reached.wait()
    await house.client.get_workflow_handle(handle.workflow_id).terminate()

    ran = await at_home.run("status", event_id)
    gate.opened.set()

    assert ran.code == 4, ran
    assert "its execution has ended as terminated before the saga did, so nothing drives it" in ran.out
    assert f"orchestrator retry {event_id}  # resumes the saga" in ran.out


@on_sqlite
async def test_without_temporal_the_answer_comes_from_the_database_alone_and_says_so(
    empty_house: House, nowhere: Shell
) -> None:
    event_id = new_id()
    await _write(empty_house.database, event_id, Phase.FORWARD)
    alone = shell_of(empty_house).at(TEMPORAL_ADDRESS=nowhere.variables["TEMPORAL_ADDRESS"])

    known = await alone.run("status", event_id)
    unknown = await alone.run("status", new_id())

    assert known.code == 4, known
    assert known.out.startswith("forward ")
    assert "Temporal could not be asked" in known.err
    assert unknown.code == 3, unknown
    assert "Temporal could not be asked" in unknown.err


@on_sqlite
@pytest.mark.parametrize("event_id", ["never-published", "no id!"])
async def test_an_unknown_event_is_exit_code_2(event_id: str, house: House, at_home: Shell) -> None:
    plain = await at_home.run("status", event_id)
    in_json = await at_home.run("status", event_id, "--json")

    assert (plain.code, in_json.code) == (2, 2), plain
    assert event_id in plain.err
    assert in_json.document["error"]["code"] == "saga.unknown"


@on_sqlite
async def test_an_empty_list_shows_the_next_command(empty_house: House) -> None:
    ran = await shell_of(empty_house).run("list")

    assert ran.code == 0, ran
    assert ran.out.startswith("There are no sagas yet.")
    assert ran.out.rstrip().endswith("orchestrator events")


async def test_the_list_is_newest_first_with_whole_ids_and_can_be_filtered(empty_house: House) -> None:
    long_ids = [f"{number}-{'x' * 120}" for number in range(3)]
    for event_id, phase in zip(long_ids, (Phase.COMPLETED, Phase.FAILED, Phase.COMPLETED), strict=True):
        await _write(empty_house.database, event_id, phase)
    shell = shell_of(empty_house)

    plain = await shell.run("list")
    filtered = await shell.run("list", "--phase", "completed", "--limit", "1", "--json")
    unmatched = await shell.run("list", "--orchestrator", "Nobody")

    assert [line.split()[0] for line in plain.out.splitlines()[1:4]] == long_ids[::-1]
    assert plain.out.splitlines()[-1] == "2 completed, 1 failed"
    assert [saga["event_id"] for saga in filtered.document["sagas"]] == [long_ids[2]]
    assert filtered.document["counts"]["failed"] == 1
    assert unmatched.out.startswith("No saga matches.")


async def test_reading_filters_and_counts(database: Database) -> None:
    await _write(database, "one", Phase.COMPLETED)
    await _write(database, "two", Phase.FAILED)

    sagas = await list_sagas(database, phase=Phase.FAILED, orchestrator="CoinsMove")
    counted = await counts(database)

    assert [saga.event_id for saga in sagas] == ["two"]
    assert (counted[Phase.COMPLETED], counted[Phase.FAILED], counted[Phase.UNDOING]) == (1, 1, 0)
    assert await list_sagas(database, orchestrator="Letter") == []


async def _kind_is(client: Client, workflow_id: str, kind: BlockedReason) -> bool:
    reason = await reason_of(client, workflow_id)
    return reason is not None and reason.kind is kind


async def _write(database: Database, event_id: str, phase: Phase) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            insert(saga).values(
                id=uuid4(),
                orchestrator="CoinsMove",
                event_id=event_id,
                envelope="{}",
                event_type="COINS_MOVE_REQUESTED",
                event_version=1,
                content_digest="",
                phase=phase.value,
                created_at=datetime.now(UTC),
            )
        )
