"""Both orchestrators on the real server, with every fault at every step: done once, or undone row for row.

By default each step of a scenario runs on one of the databases, alternately; on the other one it is `exhaustive`
(`make test-all`). The conformance kit runs the same faults at each step without a server.
"""

from collections.abc import Iterable

import pytest

from orchestrator import FailureEvent
from orchestrator.protocol import names
from starter.invariants import Snapshot, differences
from tests.app.faults import Faults, fails, refuses
from tests.app.running import RunningBooks
from tests.app.scenarios import (
    CATALOG,
    DOLLARS_TO_EUROS,
    FIRST_ACCOUNT,
    SCENARIOS,
    WITHIN_DOLLARS,
    YEN_FOR_DINARS,
    YEN_TO_DINARS,
    Scenario,
    assert_done_once,
)
from tests.conftest import KINDS, Kind
from tests.house import new_id

# The other scenarios differ only in amounts; all of them are tested to complete and to be undone as a whole.
STEP_BY_STEP = (FIRST_ACCOUNT, DOLLARS_TO_EUROS, YEN_FOR_DINARS)


def each(scenarios: Iterable[Scenario], *, undoable: bool = False) -> pytest.MarkDecorator:
    """Each scenario with each of its steps, or with those that can be undone, alternating between the databases."""
    cells = [(scenario, step) for scenario in scenarios for step in (scenario.undoable if undoable else scenario.steps)]
    return pytest.mark.parametrize(
        ("kind", "scenario", "step"),
        [
            pytest.param(kind, scenario, step, id=f"{kind}-{scenario}: {step}", marks=alternating(cell, kind))
            for kind in KINDS
            for cell, (scenario, step) in enumerate(cells)
        ],
        indirect=["kind"],
    )


def alternating(cell: int, kind: Kind) -> list[pytest.MarkDecorator]:
    """Run cells alternately on the two databases by default; on the other one a cell is exhaustive."""
    return [] if KINDS[cell % len(KINDS)] == kind else [pytest.mark.exhaustive]


each_scenario = pytest.mark.parametrize(
    ("kind", "scenario"),
    [
        pytest.param(kind, scenario, id=f"{kind}-{scenario}", marks=alternating(cell, kind))
        for kind in KINDS
        for cell, scenario in enumerate(SCENARIOS)
    ],
    indirect=["kind"],
)


async def assert_completed(running: RunningBooks, scenario: Scenario, event_id: str, before: Snapshot) -> None:
    """Check that everything is as after one success."""
    ended = await running.ended(scenario.orchestrator, event_id)
    assert ended.phase == "completed"
    assert not ended.is_stuck
    assert ended.steps == [(number, step, "done") for number, step in enumerate(scenario.steps, start=1)]
    assert ended.sent == ended.outcome["event"]
    assert ended.sent["type"] == scenario.orchestrator.completed.type_name()
    assert_done_once(scenario, before, await running.snapshot())
    assert await running.violations() == []
    assert await running.house.dead_letters() == []


async def assert_undone(
    running: RunningBooks,
    scenario: Scenario,
    failure: FailureEvent,
    before: Snapshot,
    *,
    code: str,
    steps: list[tuple[int, str, str]],
) -> None:
    """Check that everything is as before, and that the failure event describes it."""
    ended = await running.ended(scenario.orchestrator, failure.event_id)
    assert ended.phase == "failed"
    assert not ended.is_stuck
    assert ended.steps == steps
    assert ended.sent == ended.outcome["event"]
    assert ended.sent["type"] == scenario.orchestrator.failed.type_name()
    assert isinstance(failure, scenario.orchestrator.failed)
    assert failure.error_code == ended.outcome["error_code"] == code
    assert failure.event_type == scenario.event.type_name()
    assert failure.event == scenario.event.model_dump(mode="json")
    assert [(step.number, step.operation, step.compensation) for step in failure.undone] == [
        (number, step, CATALOG.compensation_of(step)) for number, step, state in reversed(steps) if state == "undone"
    ]
    assert differences(before, await running.snapshot()) == []
    assert await running.violations() == []
    assert await running.house.dead_letters() == []


@each_scenario
async def test_a_saga_without_faults_is_done_once(running: RunningBooks, faults: Faults, scenario: Scenario) -> None:
    before, event_id = await running.snapshot(), new_id()

    await running.completes(scenario.orchestrator, scenario.event, event_id=event_id)

    await assert_completed(running, scenario, event_id, before)
    assert faults.runs == list(scenario.steps)


@each_scenario
async def test_a_saga_whose_last_step_is_refused_is_undone_completely(
    running: RunningBooks, faults: Faults, scenario: Scenario
) -> None:
    before, last = await running.snapshot(), scenario.steps[-1]
    faults.inside[last] = refuses("test.refused")

    failure = await running.fails(scenario.orchestrator, scenario.event)

    steps = scenario.steps_after_failure(last, state="refused")
    await assert_undone(running, scenario, failure, before, code="test.refused", steps=steps)
    undone = [CATALOG.compensation_of(step) for step in reversed(scenario.undoable) if step != last]
    assert faults.runs == [*scenario.steps, *undone]


@each(STEP_BY_STEP)
async def test_a_refused_step_undoes_the_steps_before_it(
    running: RunningBooks, faults: Faults, scenario: Scenario, step: str
) -> None:
    before = await running.snapshot()
    faults.inside[step] = refuses("test.refused")

    failure = await running.fails(scenario.orchestrator, scenario.event)

    steps = scenario.steps_after_failure(step, state="refused")
    await assert_undone(running, scenario, failure, before, code="test.refused", steps=steps)
    assert faults.runs.count(step) == 1


@each(STEP_BY_STEP)
async def test_a_step_that_keeps_failing_undoes_the_steps_before_it(
    running: RunningBooks, faults: Faults, scenario: Scenario, step: str
) -> None:
    before = await running.snapshot()
    faults.give_up_soon()
    faults.inside[step] = fails()

    failure = await running.fails(scenario.orchestrator, scenario.event)

    steps = scenario.steps_after_failure(step, state=None)
    await assert_undone(running, scenario, failure, before, code="operation.failed", steps=steps)
    assert f"{step}: RuntimeError: the test fails it for good" in failure.message
    assert faults.runs.count(step) == 3


@each(STEP_BY_STEP)
async def test_a_step_that_fails_once_is_retried_and_done_once(
    running: RunningBooks, faults: Faults, scenario: Scenario, step: str
) -> None:
    before, event_id = await running.snapshot(), new_id()
    faults.inside[step] = fails(times=1)

    await running.completes(scenario.orchestrator, scenario.event, event_id=event_id)

    await assert_completed(running, scenario, event_id, before)
    assert faults.runs.count(step) == 2
    ended = await running.ended(scenario.orchestrator, event_id)
    assert ended.attempts == {name: 2 if name == step else 1 for name in scenario.steps}


@each(STEP_BY_STEP)
async def test_a_step_whose_reply_is_lost_returns_its_recorded_result(
    running: RunningBooks, faults: Faults, scenario: Scenario, step: str
) -> None:
    before, event_id = await running.snapshot(), new_id()
    faults.after[step] = fails(times=1)

    await running.completes(scenario.orchestrator, scenario.event, event_id=event_id)

    await assert_completed(running, scenario, event_id, before)
    assert faults.runs == list(scenario.steps)


@each(STEP_BY_STEP, undoable=True)
async def test_a_step_whose_reply_is_always_lost_is_undone(
    running: RunningBooks, faults: Faults, scenario: Scenario, step: str
) -> None:
    before = await running.snapshot()
    faults.give_up_soon()
    faults.after[step] = fails()

    failure = await running.fails(scenario.orchestrator, scenario.event)

    steps = scenario.steps_after_failure(step, state="undone")
    await assert_undone(running, scenario, failure, before, code="operation.failed", steps=steps)
    assert faults.runs.count(step) == 1


@pytest.mark.parametrize("where", ["inside", "after"])
@each(STEP_BY_STEP, undoable=True)
async def test_a_compensation_that_fails_once_is_retried_and_done_once(
    running: RunningBooks, faults: Faults, scenario: Scenario, step: str, where: str
) -> None:
    """It fails inside its transaction or after the commit."""
    before, last = await running.snapshot(), scenario.steps[-1]
    undoing = CATALOG.compensation_of(step)
    # The last step loses its reply for good or, if it cannot be undone, is refused; so the other steps are undone.
    faults.give_up_soon()
    if last in scenario.undoable:
        faults.after[last] = fails()
    else:
        faults.inside[last] = refuses("operation.failed")
    getattr(faults, where)[undoing] = fails(times=1)

    failure = await running.fails(scenario.orchestrator, scenario.event)

    state = "undone" if last in scenario.undoable else "refused"
    steps = scenario.steps_after_failure(last, state=state)
    await assert_undone(running, scenario, failure, before, code="operation.failed", steps=steps)
    repeats = 2 if where == "inside" else 1
    assert faults.runs.count(undoing) == repeats
    ended = await running.ended(scenario.orchestrator, failure.event_id)
    assert ended.undo_attempts[step] == repeats


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("scenario", [YEN_TO_DINARS], ids=str)
async def test_an_outcome_whose_write_fails_or_whose_reply_is_lost_is_written_once(
    running: RunningBooks, faults: Faults, scenario: Scenario, where: str
) -> None:
    before, event_id = await running.snapshot(), new_id()
    getattr(faults, where)[names.FINISH] = fails(times=1)

    await running.completes(scenario.orchestrator, scenario.event, event_id=event_id)

    await assert_completed(running, scenario, event_id, before)


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("engine", [names.BEGIN_UNDO, names.FINISH])
@pytest.mark.parametrize("scenario", [WITHIN_DOLLARS], ids=str)
async def test_an_undo_continues_when_the_engines_own_transaction_fails_or_loses_its_reply(
    running: RunningBooks, faults: Faults, scenario: Scenario, engine: str, where: str
) -> None:
    before, last = await running.snapshot(), scenario.steps[-1]
    faults.inside[last] = refuses("test.refused")
    getattr(faults, where)[engine] = fails(times=1)

    failure = await running.fails(scenario.orchestrator, scenario.event)

    steps = scenario.steps_after_failure(last, state="refused")
    await assert_undone(running, scenario, failure, before, code="test.refused", steps=steps)
