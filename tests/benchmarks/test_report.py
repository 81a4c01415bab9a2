"""The benchmark's report: ratios are of one round, goals are met or missed, what was not measured is not met."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.report import GOALS, Goal, Ratio, Report
from benchmarks.samples import Placement, Sample, compared, rows_of

THROUGHPUT = "throughput, 3 steps, partitions, 50 at once"
SERVER_CPU = "Temporal server CPU a saga, partitions"
OWN_HISTORY = "history events a saga, own execution"


def sample(placement: Placement = "plain", transactions: int = 3, **figures: Any) -> Sample:
    """A sample in which only what is named is out of the ordinary."""
    usual: dict[str, Any] = {
        "journal": "delete",
        "processes": 1,
        "round": 1,
        "sagas": 100,
        "throughput": 10.0,
        "loaded_p50_ms": 1_000.0,
        "loaded_p95_ms": 2_000.0,
        "alone_p50_ms": 100.0,
        "alone_p95_ms": 200.0,
        "cpu_ms": {"server": 50.0, "workers": 20.0, "postgresql": 2.0, "client": 1.0},
        "history_events": 23.0,
    }
    return Sample(placement=placement, transactions=transactions, **{**usual, **figures})


def line(measure: str, *samples: Sample) -> Ratio:
    """The report's line on one measure."""
    [found] = [one for one in Report(samples=samples, about={}).ratios if one.measure == measure]
    return found


def cpu(server: float) -> dict[str, float]:
    """So much of the server, and little of the others."""
    return {"server": server, "workers": 1.0, "postgresql": 1.0, "client": 1.0}


def test_a_ratio_is_the_median_of_those_of_each_round() -> None:
    measured = line(
        THROUGHPUT,
        *(sample(round=number, throughput=rate) for number, rate in enumerate([10.0, 5.0, 20.0])),
        *(sample("partitions", round=number, throughput=rate) for number, rate in enumerate([160.0, 200.0, 200.0])),
    )

    assert (measured.low, measured.ratio, measured.high) == (10.0, 16.0, 40.0)


@pytest.mark.parametrize(("rate", "met"), [(150.0, True), (149.0, False)])
def test_a_goal_of_at_least_is_met_at_the_goal_and_missed_below_it(rate: float, met: bool) -> None:
    measured = line(THROUGHPUT, sample(throughput=10.0), sample("partitions", throughput=rate))

    assert (measured.goal, measured.met) == (15, met)


@pytest.mark.parametrize(("server", "met"), [(1.0, True), (1.1, False)])
def test_a_goal_of_at_most_is_met_at_the_goal_and_missed_above_it(server: float, met: bool) -> None:
    measured = line(SERVER_CPU, sample(cpu_ms=cpu(50.0)), sample("partitions", cpu_ms=cpu(server)))

    assert (measured.goal, measured.met) == (0.02, met)


@pytest.mark.parametrize(("events", "met"), [(14.0, True), (15.0, False)])
def test_history_events_are_counted_and_shown_beside_those_of_the_plain_saga(events: float, met: bool) -> None:
    measured = line(OWN_HISTORY, sample(), sample("own execution", history_events=events))

    assert (measured.ratio, measured.unit, measured.met) == (events, "events", met)
    assert measured.against == "plain Temporal saga (23)"


def test_what_was_not_measured_is_not_met() -> None:
    ratios = Report(samples=[sample()], about={}).ratios

    assert [one.measure for one in ratios] == [goal.measure for goal in GOALS]
    assert {(one.ratio, one.met) for one in ratios} == {(None, False)}


def test_goals_are_held_against_the_same_journal() -> None:
    ratios = Report(
        samples=[
            sample(throughput=10.0),
            sample("partitions", throughput=200.0),
            sample(throughput=20.0, journal="wal"),
            sample("partitions", throughput=200.0, journal="wal"),
        ],
        about={},
    ).ratios

    assert [(one.journal, one.ratio, one.met) for one in ratios if one.measure == THROUGHPUT] == [
        ("delete", 20.0, True),
        ("wal", 10.0, False),
    ]


def test_goals_are_held_against_the_same_number_of_processes_and_the_same_rounds() -> None:
    measured = line(
        THROUGHPUT,
        sample(throughput=10.0),
        sample("partitions", throughput=100.0),
        sample("partitions", throughput=900.0, round=2),
        sample(throughput=1.0, processes=2),
        sample("partitions", throughput=900.0, processes=2),
    )

    assert measured.ratio == 10.0


def test_a_plain_saga_that_came_to_nothing_gives_no_ratio() -> None:
    plain, partitions = rows_of([sample(throughput=0.0), sample("partitions")])

    assert compared(partitions, plain, "throughput") is None


def test_all_cpu_is_the_sum_of_its_parts() -> None:
    [row] = rows_of([sample(cpu_ms=cpu(5.0))])

    assert row.spread("cpu_ms.all").median == 8.0


def test_the_goals_are_those_that_were_set() -> None:
    told = {(goal.placement, goal.transactions, goal.figure, goal.bound, goal.goal) for goal in GOALS}

    assert told == {
        ("partitions", 3, "throughput", "at least", 15),
        ("partitions", 1, "throughput", "at least", 25),
        ("own execution", 3, "throughput", "at least", 2),
        ("own execution", 3, "alone_p50_ms", "at most", 0.5),
        ("partitions", 3, "cpu_ms.server", "at most", 0.02),
        ("own execution", 3, "history_events", "at most", 14),
        ("partitions", 3, "history_events", "at most", 1),
    }
    assert all(isinstance(goal, Goal) for goal in GOALS)


def test_what_is_written_holds_rows_and_ratios_and_what_explains_them(tmp_path: Path) -> None:
    Report(samples=[sample(), sample("partitions", throughput=200.0)], about={"seed": 1}).write(tmp_path / "x.json")

    written = json.loads((tmp_path / "x.json").read_text())
    assert [(row["placement"], row["throughput"]["median"]) for row in written["rows"]] == [
        ("plain", 10.0),
        ("partitions", 200.0),
    ]
    [ratio] = [one for one in written["ratios"] if one["measure"] == THROUGHPUT]
    assert {name: ratio[name] for name in ("measure", "journal", "against", "ratio", "goal", "met")} == {
        "measure": THROUGHPUT,
        "journal": "delete",
        "against": "plain Temporal saga",
        "ratio": 20.0,
        "goal": 15,
        "met": True,
    }
    assert written["seed"] == 1
    assert [one.name for one in tmp_path.iterdir()] == ["x.json"]


def test_what_is_shown_begins_with_ratios_and_ends_with_what_was_missed() -> None:
    console = Console(record=True, width=170, quiet=False, file=None)
    with console.capture() as captured:
        Report(samples=[sample(), sample("partitions", throughput=200.0)], about={}).show(console)

    said = captured.get()
    assert said.index("goals: median") < said.index("over the plain saga") < said.index("the figures of this run")
    assert "journal delete: goals met: 1 of 7" in said
    assert f"missed: {SERVER_CPU}" in said
    assert f"missed: {THROUGHPUT}" not in said
