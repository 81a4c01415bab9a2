"""The kit sees what is wrong: each of these orchestrators fails in the cells that show it, with a story to read."""

from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator import Catalog, UsageError
from orchestrator.definition.catalog import AnyOrchestrator
from orchestrator.store.locks import Woken
from orchestrator.store.saga import finish
from orchestrator.testing import Equality, Example, run_conformance
from orchestrator.testing.conformance.databases import NotHere
from orchestrator.testing.conformance.faults import Fault
from orchestrator.testing.conformance.injection import Injected
from orchestrator.testing.conformance.report import Verdict
from orchestrator.testing.conformance.scenario import Play, Stage
from orchestrator.testing.conformance.suite import Group, Players, Suite
from tests import cast
from tests.cast_events import TurnTakingRequested
from tests.house import CATALOG as CAST
from tests.orchestrators import TurnTaking
from tests.testing import post, wrong
from tests.testing.test_conformance_of_the_cast import boxes as coins
from tests.testing.wrong import Asked, Outside, boxes

CATALOG = Catalog.of(
    orchestrators=[
        wrong.AsksTheClock,
        wrong.Forgets,
        wrong.Guesses,
        wrong.NeverRight,
        wrong.Right,
        wrong.RightForSmallNumbers,
        wrong.SetsBack,
        wrong.Tells,
        wrong.WillNotGiveBack,
    ],
    operations=[
        wrong.take,
        wrong.take_and_enter,
        wrong.take_and_tell,
        wrong.take_by_reading,
        wrong.take_for_good,
        wrong.enter_the_time,
        wrong.count_up,
        wrong.open_box,
    ],
)
TEN = Example(Asked(coins=10), given=boxes)


def failures(orchestrator: AnyOrchestrator, *faults: str, example: Example = TEN) -> dict[str, str]:
    """Stories of what failed on SQLite, by fault and place."""
    report = run_conformance(
        orchestrator, example, catalog=CATALOG, tables=wrong.tables, databases=("sqlite",), faults=faults or None
    )
    assert report.exit_code == bool(report.of(Verdict.FAILED))
    return {
        f"{result.cell.fault} at {result.cell.place}": result.told
        for result in report.results
        if result.verdict is Verdict.FAILED
    }


def test_what_is_right_fails_nowhere() -> None:
    assert failures(wrong.Right) == {}


def test_a_compensation_that_sets_an_absolute_value_fails_when_others_act_between() -> None:
    found = failures(wrong.SetsBack, "refused", "others between")

    assert list(found) == ["others between at step 1, wrong.take_by_reading"]
    story = found["others between at step 1, wrong.take_by_reading"]
    assert "the saga ended as cancelled, so everything must be as after the other alone" in story
    assert "box a: coins is 100 and must be 90" in story
    assert "driver 1, after step 1: stands still" in story
    assert "before undo 1 > entering undo 1 > inside undo 1 > after undo 1" in story


def test_a_compensation_that_forgets_a_table_fails_wherever_the_step_is_undone() -> None:
    found = failures(wrong.Forgets, "refused", "do, then undo", "loses its reply")

    assert list(found) == ["refused at step 2, wrong.take", "do, then undo at step 1, wrong.take_and_enter"]
    assert "must not be there: {coins=10, id=" in found["refused at step 2, wrong.take"]
    assert "so everything must be as before" in found["refused at step 2, wrong.take"]
    assert (
        "and then its compensation, leave the state changed" in found["do, then undo at step 1, wrong.take_and_enter"]
    )


def test_an_effect_outside_of_the_transaction_fails_where_the_attempt_is_rolled_back() -> None:
    example = Example(
        Asked(coins=10), given=boxes, observe=lambda: list(Outside.letters), restore=Outside.letters.clear
    )

    found = failures(wrong.Tells, "transient error", "loses its reply", "compensation fails once", example=example)

    assert list(found) == [
        "transient error at step 1, wrong.take_and_tell",
        "compensation fails once at step 1, wrong.take_and_tell",
    ]
    told = "outside: ['10 taken'] is expected and ['10 taken', '10 taken'] is found"
    assert told in found["transient error at step 1, wrong.take_and_tell"]


def test_a_handle_that_does_another_thing_each_time_fails_where_it_runs_again() -> None:
    found = failures(wrong.Guesses, "nothing happens", "dies after commit")

    assert list(found) == ["nothing happens at the end", "dies after commit at step 1, wrong.take"]
    assert "SagaStuck: step 1 differs from its record" in found["dies after commit at step 1, wrong.take"]


def test_a_compensation_that_refuses_fails_and_says_so() -> None:
    found = failures(wrong.WillNotGiveBack, "refused", "transient error", "do, then undo")

    assert list(found) == ["refused at step 2, wrong.take", "do, then undo at step 1, wrong.take_for_good"]
    told = "undo 1 failed 12 times, at last with Refused: box.closed: 10 cannot come back"
    assert told in found["refused at step 2, wrong.take"]
    assert "its compensation raised Refused" in found["do, then undo at step 1, wrong.take_for_good"]


def test_an_operation_that_asks_a_clock_fails_already_when_nothing_happens() -> None:
    found = failures(wrong.AsksTheClock, "nothing happens")

    assert "entry" in found["nothing happens at the end"]
    assert "coins is" in found["nothing happens at the end"]


def test_a_lock_that_is_not_given_back_fails_at_every_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def keep(connection: AsyncConnection, sagas: Iterable[UUID]) -> list[Woken]:
        return []

    monkeypatch.setattr(finish, "release", keep)
    report = run_conformance(
        TurnTaking,
        Example(TurnTakingRequested(keys=("user/olena",), ordering_key="order/1", coins=10), given=coins),
        catalog=CAST,
        tables=cast.tables,
        databases=("sqlite",),
        faults=["nothing happens", "refused", "cancelled after"],
    )

    assert {result.verdict for result in report.results} == {Verdict.FAILED}
    for result in report.results:
        assert "the lock order/1 is still held" in result.told
        assert "the lock user/olena is still held" in result.told


def test_a_call_outside_that_does_not_heed_its_key_fails_where_its_reply_is_lost(tmp_path: Path) -> None:
    def letters() -> list[str]:
        return sorted(file.read_text() for file in tmp_path.iterdir())

    def empty_the_folder() -> None:
        for file in tmp_path.iterdir():
            file.unlink()

    report = run_conformance(
        post.PostAnew,
        Example(
            post.LetterWritten(folder=str(tmp_path), coins=5),
            given=post.filled,
            observe=letters,
            restore=empty_the_folder,
        ),
        catalog=Catalog.of(orchestrators=[post.PostAnew], operations=[post.send_anew]),
        tables=post.tables,
        databases=("sqlite",),
        faults=["call loses its reply", "loses its reply", "cancelled inside", "worker killed inside"],
    )

    found = {result.cell.fault: result.told for result in report.of(Verdict.FAILED)}
    assert list(found) == ["call loses its reply", "cancelled inside", "worker killed inside"]
    assert "as its verification did not find the first one" in found["call loses its reply"]
    assert "outside: [] is expected and ['dear'] is found" in found["cancelled inside"]
    assert "outside: ['dear'] is expected and ['dear', 'dear'] is found" in found["worker killed inside"]


def test_what_is_given_may_be_calls() -> None:
    example = Example(Asked(coins=10), given=[wrong.open_box("a", 60), wrong.take(10)])

    found = failures(wrong.SetsBack, "others between", example=example)

    assert "box a: coins is 50 and must be 40" in "".join(found.values())


def test_a_column_that_is_declared_not_to_count_may_differ() -> None:
    report = run_conformance(
        wrong.AsksTheClock,
        TEN,
        catalog=CATALOG,
        tables=wrong.tables,
        databases=("sqlite",),
        faults=["nothing happens"],
        equality=Equality(ignore_columns={"entry": {"coins"}}),
    )

    assert report.last_line == "cells tried 1: hit 1, declared 0, failed 0"


def test_hypothesis_finds_the_smallest_call_that_is_not_undone() -> None:
    found = failures(wrong.RightForSmallNumbers, "refused", "cancelled after", "undone twice", "do, then undo")

    assert list(found) == ["do, then undo at step 1, wrong.count_up"]
    assert (
        "wrong.count_up(coins=16), and then its compensation, leave the state changed"
        in found["do, then undo at step 1, wrong.count_up"]
    )


def test_an_example_that_never_runs_clean_fails_with_what_it_raised() -> None:
    found = failures(wrong.NeverRight, "refused")

    assert found == {"refused at each place": "no clean run: LookupError: there is nothing here"}


def test_an_example_that_does_not_end_as_it_says_proves_nothing_and_fails() -> None:
    too_early = Example(Asked(coins=10))  # there is no box yet, and nobody says so
    refused = Example(Asked(coins=10), given=boxes, refused="box.empty")

    assert failures(wrong.SetsBack, "refused", example=too_early)["refused at each place"].startswith(
        "no clean run: it must end as completed, and ended as failed, operation.failed: step 1, wrong.take_by_reading"
    )
    assert failures(wrong.Right, "refused", example=refused) == {
        "refused at each place": "no clean run: it must end as failed, box.empty, and ended as completed"
    }


RIGHT = Suite(orchestrator=wrong.Right, examples=[TEN], catalog=CATALOG, tables=wrong.tables, databases=("sqlite",))


@pytest.fixture
async def players() -> AsyncGenerator[Players]:
    """For plays of a test's own, on the orchestrator that is right."""
    made = Players(RIGHT, {})
    yield made
    await made.close()
    for server in made.servers.values():
        assert not isinstance(server, NotHere)
        await server.close()


def of_a_test(play: Play) -> Group:
    fault = Fault(name="of a test", explains="for this test alone", play=play)
    return Group(example=TEN, fault=fault, database="sqlite")


async def test_a_fault_that_did_not_occur_is_a_failure(players: Players) -> None:
    async def nothing_hit(stage: Stage) -> None:
        one = stage.injection()
        one.raises("inside step 7", Injected("never"))
        await stage.drive(one)
        stage.must(one.hits["inside step 7"], "there is no step 7")

    [result] = await players.play(of_a_test(nothing_hit))

    assert result.verdict is Verdict.FAILED
    assert "the fault did not occur: there is no step 7" in result.told
    assert "driver 1, inside step 7: Injected, once" in result.told


async def test_a_driver_that_never_stops_where_it_should_is_a_failure(players: Players) -> None:
    async def never_there(stage: Stage) -> None:
        await stage.stopped_at("before step 7")

    [result] = await players.play(of_a_test(never_there))

    assert "a driver never came to the point at which it should stand still" in result.told


async def test_a_saga_that_is_left_open_is_a_failure(players: Players) -> None:
    async def left_alone(stage: Stage) -> None:
        await stage.stopped_at("after step 1")

    [result] = await players.play(of_a_test(left_alone))

    assert result.verdict is Verdict.FAILED


async def test_a_cell_after_one_that_failed_plays_on_a_new_ground(players: Players) -> None:
    async def spoils(stage: Stage) -> None:
        async with stage.database.transaction() as connection:
            await connection.execute(wrong.box.update().values(coins=7))
        await stage.drive()

    [spoilt] = await players.play(of_a_test(spoils))
    clean = next(group for group in RIGHT.groups() if group.fault.name == "nothing happens")
    [after] = await players.play(clean)

    assert "box a: coins is -3 and must be 90" in spoilt.told
    assert after.verdict is Verdict.HIT


def test_what_cannot_be_played_is_told_at_once() -> None:
    with pytest.raises(UsageError, match="needs an example"):
        run_conformance(wrong.Right)
    with pytest.raises(UsageError, match="two examples have one name"):
        run_conformance(wrong.Right, TEN, TEN)
    with pytest.raises(UsageError, match="there is no fault"):
        run_conformance(wrong.Right, TEN, faults=["gremlins"])
    with pytest.raises(UsageError, match="is not in the catalog"):
        run_conformance(wrong.Right, TEN, catalog=Catalog.of(orchestrators=[wrong.Forgets]), tables=wrong.tables)
