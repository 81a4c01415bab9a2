"""Both orchestrators on the real server, each step going wrong in each way: done once, or undone row for row.

By default each cell, a step of a scenario, is on one of the databases, in turns; on the other one it is `exhaustive`
(`make test-all`). The conformance kit plays the same faults at each step without a server.
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

# The others differ from these in amounts alone; that they complete and are undone as a whole is tested of all.
STEP_BY_STEP = (FIRST_ACCOUNT, DOLLARS_TO_EUROS, YEN_FOR_DINARS)


def each(scenarios: Iterable[Scenario], *, undoable: bool = False) -> pytest.MarkDecorator:
    """Each scenario with each of its steps, or with those that can be undone, on the databases in turns."""
    cells = [(scenario, step) for scenario in scenarios for step in (scenario.undoable if undoable else scenario.steps)]
    return pytest.mark.parametrize(
        ("kind", "scenario", "step"),
        [
            pytest.param(kind, scenario, step, id=f"{kind}-{scenario}: {step}", marks=in_turns(cell, kind))
            for kind in KINDS
            for cell, (scenario, step) in enumerate(cells)
        ],
        indirect=["kind"],
    )


def in_turns(cell: int, kind: Kind) -> list[pytest.MarkDecorator]:
    """Cells are on the first database, then on the second, and so on; by default they are not on the other one."""
    return [] if KINDS[cell % len(KINDS)] == kind else [pytest.mark.exhaustive]


each_scenario = pytest.mark.parametrize(
    ("kind", "scenario"),
    [
        pytest.param(kind, scenario, id=f"{kind}-{scenario}", marks=in_turns(cell, kind))
        for kind in KINDS
        for cell, scenario in enumerate(SCENARIOS)
    ],
    indirect=["kind"],
)


async def assert_completed(running: RunningBooks, scenario: Scenario, event_id: str, before: Snapshot) -> None:
    """Everything is as after one success."""
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
    """Everything is as before, and the failure says so."""
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
async def test_a_saga_to_which_nothing_happens_is_done_once(
    running: RunningBooks, faults: Faults, scenario: Scenario
) -> None:
    before, event_id = await running.snapshot(), new_id()

    await running.completes(scenario.orchestrator, scenario.event, event_id=event_id)

    await assert_completed(running, scenario, event_id, before)
    assert faults.runs == list(scenario.steps)


@each_scenario
async def test_a_saga_whose_last_step_is_refused_is_undone_as_a_whole(
    running: RunningBooks, faults: Faults, scenario: Scenario
) -> None:
    before, last = await running.snapshot(), scenario.steps[-1]
    faults.inside[last] = refuses("test.refused")

    failure = await running.fails(scenario.orchestrator, scenario.event)

    steps = scenario.left_by_a_failure(last, itself="refused")
    await assert_undone(running, scenario, failure, before, code="test.refused", steps=steps)
    undone = [CATALOG.compensation_of(step) for step in reversed(scenario.undoable) if step != last]
    assert faults.runs == [*scenario.steps, *undone]


@each(STEP_BY_STEP)
async def test_a_step_that_is_refused_undoes_what_came_before(
    running: RunningBooks, faults: Faults, scenario: Scenario, step: str
) -> None:
    before = await running.snapshot()
    faults.inside[step] = refuses("test.refused")

    failure = await running.fails(scenario.orchestrator, scenario.event)

    steps = scenario.left_by_a_failure(step, itself="refused")
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

    steps = scenario.left_by_a_failure(step, itself=None)
    await assert_undone(running, scenario, failure, before, code="operation.failed", steps=steps)
    assert f"{step}: RuntimeError: the test fails it for good" in failure.message
    assert faults.runs.count(step) == 3


@each(STEP_BY_STEP)
async def test_a_step_that_fails_once_is_tried_again_and_done_once(
    running: RunningBooks, faults: Faults, scenario: Scenario, step: str
) -> None:
    before, event_id = await running.snapshot(), new_id()
    faults.inside[step] = fails(times=1)

    await running.completes(scenario.orchestrator, scenario.event, event_id=event_id)

    await assert_completed(running, scenario, event_id, before)
    assert faults.runs.count(step) == 2
    ended = await running.ended(scenario.orchestrator, event_id)
    assert ended.attempts == {one: 2 if one == step else 1 for one in scenario.steps}


@each(STEP_BY_STEP)
async def test_a_step_whose_reply_is_lost_answers_with_what_it_recorded(
    running: RunningBooks, faults: Faults, scenario: Scenario, step: str
) -> None:
    before, event_id = await running.snapshot(), new_id()
    faults.after[step] = fails(times=1)

    await running.completes(scenario.orchestrator, scenario.event, event_id=event_id)

    await assert_completed(running, scenario, event_id, before)
    assert faults.runs == list(scenario.steps)


@each(STEP_BY_STEP, undoable=True)
async def test_a_step_whose_reply_is_lost_for_good_is_undone_itself(
    running: RunningBooks, faults: Faults, scenario: Scenario, step: str
) -> None:
    before = await running.snapshot()
    faults.give_up_soon()
    faults.after[step] = fails()

    failure = await running.fails(scenario.orchestrator, scenario.event)

    steps = scenario.left_by_a_failure(step, itself="undone")
    await assert_undone(running, scenario, failure, before, code="operation.failed", steps=steps)
    assert faults.runs.count(step) == 1


@pytest.mark.parametrize("where", ["inside", "after"])
@each(STEP_BY_STEP, undoable=True)
async def test_a_compensation_that_fails_once_is_tried_again_and_done_once(
    running: RunningBooks, faults: Faults, scenario: Scenario, step: str, where: str
) -> None:
    """In its transaction, or when that is committed."""
    before, last = await running.snapshot(), scenario.steps[-1]
    undoing = CATALOG.compensation_of(step)
    # The last step is done and its reply lost for good, or refused where it could not be undone: the others are undone.
    faults.give_up_soon()
    if last in scenario.undoable:
        faults.after[last] = fails()
    else:
        faults.inside[last] = refuses("operation.failed")
    getattr(faults, where)[undoing] = fails(times=1)

    failure = await running.fails(scenario.orchestrator, scenario.event)

    itself = "undone" if last in scenario.undoable else "refused"
    steps = scenario.left_by_a_failure(last, itself=itself)
    await assert_undone(running, scenario, failure, before, code="operation.failed", steps=steps)
    repeats = 2 if where == "inside" else 1
    assert faults.runs.count(undoing) == repeats
    ended = await running.ended(scenario.orchestrator, failure.event_id)
    assert ended.undo_attempts[step] == repeats


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("scenario", [YEN_TO_DINARS], ids=str)
async def test_an_outcome_whose_writing_fails_or_whose_reply_is_lost_is_written_once(
    running: RunningBooks, faults: Faults, scenario: Scenario, where: str
) -> None:
    before, event_id = await running.snapshot(), new_id()
    getattr(faults, where)[names.FINISH] = fails(times=1)

    await running.completes(scenario.orchestrator, scenario.event, event_id=event_id)

    await assert_completed(running, scenario, event_id, before)


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("engine", [names.BEGIN_UNDO, names.FINISH])
@pytest.mark.parametrize("scenario", [WITHIN_DOLLARS], ids=str)
async def test_an_undoing_goes_on_when_the_engines_own_step_fails_or_loses_its_reply(
    running: RunningBooks, faults: Faults, scenario: Scenario, engine: str, where: str
) -> None:
    before, last = await running.snapshot(), scenario.steps[-1]
    faults.inside[last] = refuses("test.refused")
    getattr(faults, where)[engine] = fails(times=1)

    failure = await running.fails(scenario.orchestrator, scenario.event)

    steps = scenario.left_by_a_failure(last, itself="refused")
    await assert_undone(running, scenario, failure, before, code="test.refused", steps=steps)
