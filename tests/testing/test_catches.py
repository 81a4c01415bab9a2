"""The kit finds mistakes: each of these orchestrators fails in the cells that show its mistake, with a description."""

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
from orchestrator.testing.conformance.databases import DatabaseUnavailable
from orchestrator.testing.conformance.faults import Fault
from orchestrator.testing.conformance.injection import Injected
from orchestrator.testing.conformance.report import Verdict
from orchestrator.testing.conformance.scenario import RunFault, Scenario
from orchestrator.testing.conformance.suite import Group, Suite, SuiteRunner, close_sources
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
    """The description of each failed cell on SQLite, by fault and step."""
    report = run_conformance(
        orchestrator, example, catalog=CATALOG, tables=wrong.tables, databases=("sqlite",), faults=faults or None
    )
    assert report.exit_code == bool(report.of(Verdict.FAILED))
    return {
        f"{result.cell.fault} at {result.cell.location}": result.detail
        for result in report.results
        if result.verdict is Verdict.FAILED
    }


def test_what_is_right_fails_nowhere() -> None:
    assert failures(wrong.Right) == {}


def test_a_compensation_that_sets_an_absolute_value_fails_when_others_act_between() -> None:
    found = failures(wrong.SetsBack, "refused", "another saga between")

    assert list(found) == ["another saga between at step 1, wrong.take_by_reading"]
    story = found["another saga between at step 1, wrong.take_by_reading"]
    assert "the saga ended as cancelled, so everything must be as after the other alone" in story
    assert "box a: coins is 100 and must be 90" in story
    assert "driver 1, after step 1: paused" in story
    assert "before undo 1 > entering undo 1 > inside undo 1 > after undo 1" in story


def test_a_compensation_that_forgets_a_table_fails_wherever_the_step_is_undone() -> None:
    found = failures(wrong.Forgets, "refused", "do, then undo", "step loses its reply")

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

    found = failures(wrong.Tells, "transient error", "step loses its reply", "compensation fails once", example=example)

    assert list(found) == [
        "transient error at step 1, wrong.take_and_tell",
        "compensation fails once at step 1, wrong.take_and_tell",
    ]
    told = "outside: ['10 taken'] was expected, but ['10 taken', '10 taken'] was found"
    assert told in found["transient error at step 1, wrong.take_and_tell"]


def test_a_handle_that_does_another_thing_each_time_fails_where_it_runs_again() -> None:
    found = failures(wrong.Guesses, "no fault", "driver dies after commit")

    assert list(found) == ["no fault at the end", "driver dies after commit at step 1, wrong.take"]
    assert "SagaStuck: step 1 differs from its record" in found["driver dies after commit at step 1, wrong.take"]


def test_a_compensation_that_refuses_fails_and_says_so() -> None:
    found = failures(wrong.WillNotGiveBack, "refused", "transient error", "do, then undo")

    assert list(found) == ["refused at step 2, wrong.take", "do, then undo at step 1, wrong.take_for_good"]
    told = "undo 1 failed 12 times, most recently with Refused: box.closed: 10 cannot come back"
    assert told in found["refused at step 2, wrong.take"]
    assert "its compensation raised Refused" in found["do, then undo at step 1, wrong.take_for_good"]


def test_an_operation_that_asks_a_clock_fails_already_when_nothing_happens() -> None:
    found = failures(wrong.AsksTheClock, "no fault")

    assert "entry" in found["no fault at the end"]
    assert "coins is" in found["no fault at the end"]


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
        faults=["no fault", "refused", "cancelled after step"],
    )

    assert {result.verdict for result in report.results} == {Verdict.FAILED}
    for result in report.results:
        assert "the lock order/1 is still held" in result.detail
        assert "the lock user/olena is still held" in result.detail


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
        faults=[
            "external call loses its reply",
            "step loses its reply",
            "cancelled inside step",
            "worker killed inside step",
        ],
    )

    found = {result.cell.fault: result.detail for result in report.of(Verdict.FAILED)}
    assert list(found) == ["external call loses its reply", "cancelled inside step", "worker killed inside step"]
    assert "because its verification did not find the first one" in found["external call loses its reply"]
    assert "outside: [] was expected, but ['dear'] was found" in found["cancelled inside step"]
    assert "outside: ['dear'] was expected, but ['dear', 'dear'] was found" in found["worker killed inside step"]


def test_what_is_given_may_be_calls() -> None:
    example = Example(Asked(coins=10), given=[wrong.open_box("a", 60), wrong.take(10)])

    found = failures(wrong.SetsBack, "another saga between", example=example)

    assert "box a: coins is 50 and must be 40" in "".join(found.values())


def test_a_column_that_is_declared_not_to_count_may_differ() -> None:
    report = run_conformance(
        wrong.AsksTheClock,
        TEN,
        catalog=CATALOG,
        tables=wrong.tables,
        databases=("sqlite",),
        faults=["no fault"],
        equality=Equality(ignore_columns={"entry": {"coins"}}),
    )

    assert report.last_line == "cells tried 1: hit 1, declared 0, failed 0"


def test_hypothesis_finds_the_smallest_call_that_is_not_undone() -> None:
    found = failures(wrong.RightForSmallNumbers, "refused", "cancelled after step", "undone twice", "do, then undo")

    assert list(found) == ["do, then undo at step 1, wrong.count_up"]
    assert (
        "wrong.count_up(coins=16), and then its compensation, leave the state changed"
        in found["do, then undo at step 1, wrong.count_up"]
    )


def test_an_example_that_never_runs_clean_fails_with_what_it_raised() -> None:
    found = failures(wrong.NeverRight, "refused")

    assert found == {"refused at every step": "the reference run failed: LookupError: there is nothing here"}


def test_an_example_that_does_not_end_as_it_says_proves_nothing_and_fails() -> None:
    too_early = Example(Asked(coins=10))  # there is no box yet, and nobody says so
    refused = Example(Asked(coins=10), given=boxes, refused="box.empty")

    assert failures(wrong.SetsBack, "refused", example=too_early)["refused at every step"].startswith(
        "the reference run failed: it must end as completed, but ended as failed, operation.failed: "
        "step 1, wrong.take_by_reading"
    )
    assert failures(wrong.Right, "refused", example=refused) == {
        "refused at every step": "the reference run failed: it must end as failed, box.empty, but ended as completed"
    }


RIGHT = Suite(orchestrator=wrong.Right, examples=[TEN], catalog=CATALOG, tables=wrong.tables, databases=("sqlite",))


@pytest.fixture
async def runner() -> AsyncGenerator[SuiteRunner]:
    """Runs faults that a test defines itself, on the orchestrator that is right."""
    suite_runner = SuiteRunner(RIGHT, {})
    yield suite_runner
    await suite_runner.close()
    assert not any(isinstance(source, DatabaseUnavailable) for source in suite_runner.sources.values())
    await close_sources(suite_runner.sources)


def group_of(run: RunFault) -> Group:
    fault = Fault(name="of this test", explains="defined by this test", run=run)
    return Group(example=TEN, fault=fault, database="sqlite")


async def test_a_fault_that_did_not_occur_is_a_failure(runner: SuiteRunner) -> None:
    async def nothing_hit(scenario: Scenario) -> None:
        injection = scenario.injection()
        injection.raise_at("inside step 7", Injected("never"))
        await scenario.drive(injection)
        scenario.require(injection.hits["inside step 7"], "there is no step 7")

    [result] = await runner.run(group_of(nothing_hit))

    assert result.verdict is Verdict.FAILED
    assert "the fault did not occur: there is no step 7" in result.detail
    assert "driver 1, inside step 7: Injected, once" in result.detail


async def test_a_driver_that_never_stops_where_it_should_is_a_failure(runner: SuiteRunner) -> None:
    async def never_there(scenario: Scenario) -> None:
        await scenario.drive_to("before step 7")

    [result] = await runner.run(group_of(never_there))

    assert "a driver never reached the point at which it should pause" in result.detail


async def test_a_saga_that_is_left_open_is_a_failure(runner: SuiteRunner) -> None:
    async def left_alone(scenario: Scenario) -> None:
        await scenario.drive_to("after step 1")

    [result] = await runner.run(group_of(left_alone))

    assert result.verdict is Verdict.FAILED


async def test_a_cell_after_a_failed_one_runs_on_new_databases(runner: SuiteRunner) -> None:
    async def spoils(scenario: Scenario) -> None:
        async with scenario.database.transaction() as connection:
            await connection.execute(wrong.box.update().values(coins=7))
        await scenario.drive()

    [spoilt] = await runner.run(group_of(spoils))
    clean = next(group for group in RIGHT.groups() if group.fault.name == "no fault")
    [after] = await runner.run(clean)

    assert "box a: coins is -3 and must be 90" in spoilt.detail
    assert after.verdict is Verdict.HIT


def test_a_suite_that_cannot_run_is_rejected_at_once() -> None:
    with pytest.raises(UsageError, match="needs an example"):
        run_conformance(wrong.Right)
    with pytest.raises(UsageError, match=r"two examples of .* have the same name"):
        run_conformance(wrong.Right, TEN, TEN)
    with pytest.raises(UsageError, match="there is no fault"):
        run_conformance(wrong.Right, TEN, faults=["gremlins"])
    with pytest.raises(UsageError, match="is not in the catalog"):
        run_conformance(wrong.Right, TEN, catalog=Catalog.of(orchestrators=[wrong.Forgets]), tables=wrong.tables)
