"""The report of a measurement: ratios with their goals, tables, and `latest.json`.

Absolute figures depend on the machine and the moment, so they only compare with those of the same run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from benchmarks.samples import Placement, Row, Sample, Spread, compared, rows_of
from orchestrator.devserver.server import Journal

_WIDE = 195
_PLAIN = "plain Temporal saga"
_FIGURES = (
    "throughput",
    "loaded_p50_ms",
    "loaded_p95_ms",
    "alone_p50_ms",
    "alone_p95_ms",
    "cpu_ms.server",
    "cpu_ms.workers",
    "cpu_ms.postgresql",
    "cpu_ms.client",
    "cpu_ms.all",
    "history_events",
)

Bound = Literal["at least", "at most"]


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that a form should reach."""

    measure: str
    placement: Placement
    transactions: int
    figure: str
    bound: Bound
    goal: float
    counted: bool = False
    """Whether the figure itself must reach the goal, and not its ratio to the plain saga's."""


GOALS = (
    Goal("throughput, 3 steps, partitions, 50 at once", "partitions", 3, "throughput", "at least", 15),
    Goal("throughput, 3 steps in one transaction, partitions", "partitions", 1, "throughput", "at least", 25),
    Goal("throughput, 3 steps, own execution", "own execution", 3, "throughput", "at least", 2),
    Goal("p50 publish to outcome, own execution, one at a time", "own execution", 3, "alone_p50_ms", "at most", 0.5),
    Goal("Temporal server CPU a saga, partitions", "partitions", 3, "cpu_ms.server", "at most", 0.02),
    Goal("history events a saga, own execution", "own execution", 3, "history_events", "at most", 14, counted=True),
    Goal(
        "history events a saga, partitions with gathered publishing",
        "partitions",
        3,
        "history_events",
        "at most",
        1,
        counted=True,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A measured ratio with its goal, and whether the goal is met."""

    measure: str
    journal: Journal
    """The journal of the Temporal server's database file, on both sides."""
    against: str
    ratio: float | None
    """The median of the rounds' ratios, or a count if `unit` is `events`. None if it was not measured."""
    low: float | None
    high: float | None
    unit: Literal["x", "events"]
    bound: Bound
    goal: float
    met: bool


def ratios_of(rows: Sequence[Row], journal: Journal, processes: int) -> list[Ratio]:
    """Return the ratio for each goal, measured with one journal and one number of worker processes on both sides."""
    matching = [row for row in rows if (row.journal, row.processes) == (journal, processes)]
    by_form = {(row.placement, row.transactions): row for row in matching}
    plain = by_form.get(("plain", 3))
    return [_ratio(goal, journal, by_form.get((goal.placement, goal.transactions)), plain) for goal in GOALS]


def _ratio(goal: Goal, journal: Journal, row: Row | None, plain: Row | None) -> Ratio:
    spread: Spread | None = None
    against = _PLAIN
    if goal.counted:
        spread = row.spread(goal.figure) if row is not None else None
        if plain is not None:
            against = f"{_PLAIN} ({plain.spread(goal.figure).median:g})"
    elif row is not None and plain is not None:
        spread = compared(row, plain, goal.figure)
    return Ratio(
        measure=goal.measure,
        journal=journal,
        against=against,
        ratio=None if spread is None else round(spread.median, 4),
        low=None if spread is None else round(spread.low, 4),
        high=None if spread is None else round(spread.high, 4),
        unit="events" if goal.counted else "x",
        bound=goal.bound,
        goal=goal.goal,
        met=spread is not None
        and (spread.median >= goal.goal if goal.bound == "at least" else spread.median <= goal.goal),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All samples of a measurement."""

    samples: Sequence[Sample]
    about: Mapping[str, Any]
    """The machine, versions and options of the measurement."""

    @property
    def rows(self) -> list[Row]:
        """The rows, by journal, number of processes and form."""
        return rows_of(self.samples)

    @property
    def ratios(self) -> list[Ratio]:
        """The ratios for each journal, with the smallest number of worker processes that was measured."""
        ratios: list[Ratio] = []
        for journal in self.journals:
            fewest = min(sample.processes for sample in self.samples if sample.journal == journal)
            ratios += ratios_of(self.rows, journal, fewest)
        return ratios

    @property
    def journals(self) -> list[Journal]:
        """The journals that were measured."""
        return list(dict.fromkeys(sample.journal for sample in self.samples))

    def write(self, path: Path) -> None:
        """Write the report as JSON, atomically."""
        content = {**self.about, "ratios": [*map(asdict, self.ratios)], "rows": [*map(_row_as_json, self.rows)]}
        new = path.with_name(f"{path.name}.new")
        new.write_text(json.dumps(content, indent=2) + "\n")
        new.replace(path)

    def show(self, console: Console | None = None) -> None:
        """Print the goals, then each form compared with the plain saga, then the figures."""
        console = console or Console(highlight=False)
        if not console.is_terminal:
            console.width = _WIDE
        console.print(self._goals())
        console.print(self._compared())
        console.print(self._figures())
        for journal in self.journals:
            ratios = [ratio for ratio in self.ratios if ratio.journal == journal]
            missed = [ratio.measure for ratio in ratios if not ratio.met]
            console.print(f"journal {journal}: goals met: {len(ratios) - len(missed)} of {len(ratios)}")
            for measure in missed:
                console.print(f"missed: {measure}")

    def _goals(self) -> Table:
        table = Table(title="goals: median of the rounds (lowest-highest)")
        for column in ("measure", "journal", "against", "ratio", "goal", "met"):
            table.add_column(column, no_wrap=True)
        for ratio in self.ratios:
            goal = f"{ratio.bound} {_with_unit(ratio.goal, ratio)}"
            met = "[green]yes[/]" if ratio.met else "[red]no[/]"
            table.add_row(ratio.measure, ratio.journal, ratio.against, _with_spread(ratio), goal, met)
        return table

    def _compared(self) -> Table:
        plain = {
            (row.journal, row.processes): row for row in self.rows if (row.placement, row.transactions) == ("plain", 3)
        }
        table = Table(title="each form over the plain saga of the same round, with the same number of processes")
        table.add_column("form", no_wrap=True)
        columns = {
            "journal": "",
            "processes": "",
            "sagas/s": "throughput",
            "p50 alone": "alone_p50_ms",
            "p50 loaded": "loaded_p50_ms",
            "p95 loaded": "loaded_p95_ms",
            "CPU server": "cpu_ms.server",
            "CPU workers": "cpu_ms.workers",
            "CPU all": "cpu_ms.all",
            "history": "history_events",
        }
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)
        for row in self.rows:
            against = plain.get((row.journal, row.processes))
            if against is None or row is against:
                continue
            spreads = [compared(row, against, figure) for figure in columns.values() if figure]
            medians = ["" if spread is None else f"{spread.median:.3g}x" for spread in spreads]
            table.add_row(row.name, row.journal, str(row.processes), *medians)
        return table

    def _figures(self) -> Table:
        table = Table(title="the figures of this run on this machine")
        table.add_column("form", no_wrap=True)
        for column in (
            "journal",
            "processes",
            "sagas/s",
            "p50 / p95 alone, ms",
            "p50 / p95 loaded, ms",
            "CPU ms per saga: server / workers / PostgreSQL / client",
            "history",
        ):
            table.add_column(column, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(
                row.name,
                row.journal,
                str(row.processes),
                str(row.spread("throughput")),
                _medians(row, "alone_p50_ms", "alone_p95_ms"),
                _medians(row, "loaded_p50_ms", "loaded_p95_ms"),
                _medians(row, "cpu_ms.server", "cpu_ms.workers", "cpu_ms.postgresql", "cpu_ms.client"),
                f"{row.spread('history_events').median:.3g}",
            )
        return table


def _row_as_json(row: Row) -> dict[str, Any]:
    return {
        "placement": row.placement,
        "transactions": row.transactions,
        "journal": row.journal,
        "processes": row.processes,
        **{figure: asdict(row.spread(figure)) for figure in _FIGURES},
        "rounds": [asdict(sample) for sample in row.samples],
    }


def _medians(row: Row, *figures: str) -> str:
    return " / ".join(f"{row.spread(figure).median:.3g}" for figure in figures)


def _with_spread(ratio: Ratio) -> str:
    if ratio.ratio is None or ratio.low is None or ratio.high is None:
        return "not measured"
    return f"{_with_unit(ratio.ratio, ratio)} ({ratio.low:.3g}-{ratio.high:.3g})"


def _with_unit(figure: float, ratio: Ratio) -> str:
    return f"{figure:.3g}x" if ratio.unit == "x" else f"{figure:.3g}"
