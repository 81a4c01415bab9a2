"""What the measurement came to: ratios against their goals, a table, and `latest.json`.

Absolute figures are of one machine at one moment, so they stand only beside those of the plain saga from the same run.
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
_KEPT_FIGURES = (
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
    """What a form is to reach."""

    measure: str
    placement: Placement
    transactions: int
    figure: str
    bound: Bound
    goal: float
    counted: bool = False
    """The figure itself has to reach the goal, not its ratio to the plain saga's."""


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
    """One line: what was measured against what, and whether it is enough."""

    measure: str
    journal: Journal
    """Of the Temporal server's database file, for both sides."""
    against: str
    ratio: float | None
    """Median of the rounds' own ratios; of what is counted (`unit`: events) the count. None: not measured."""
    low: float | None
    high: float | None
    unit: Literal["x", "events"]
    bound: Bound
    goal: float
    met: bool


def ratios_of(rows: Sequence[Row], journal: Journal, processes: int) -> list[Ratio]:
    """Each goal, with what was measured with that journal and so many worker processes on either side."""
    beside = [row for row in rows if (row.journal, row.processes) == (journal, processes)]
    found = {(row.placement, row.transactions): row for row in beside}
    plain = found.get(("plain", 3))
    return [_ratio(goal, journal, found.get((goal.placement, goal.transactions)), plain) for goal in GOALS]


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
    """A whole measurement."""

    samples: Sequence[Sample]
    about: Mapping[str, Any]
    """Machine, versions, options: whatever explains the figures."""

    @property
    def rows(self) -> list[Row]:
        """By journal, number of processes and form."""
        return rows_of(self.samples)

    @property
    def ratios(self) -> list[Ratio]:
        """Against the goals, for each journal, with the fewest worker processes that were measured."""
        told: list[Ratio] = []
        for journal in self.journals:
            fewest = min(sample.processes for sample in self.samples if sample.journal == journal)
            told += ratios_of(self.rows, journal, fewest)
        return told

    @property
    def journals(self) -> list[Journal]:
        """Those that were measured."""
        return list(dict.fromkeys(sample.journal for sample in self.samples))

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        written = {**self.about, "ratios": [asdict(one) for one in self.ratios], "rows": [*map(_told, self.rows)]}
        new = path.with_name(f"{path.name}.new")
        new.write_text(json.dumps(written, indent=2) + "\n")
        new.replace(path)

    def show(self, console: Console | None = None) -> None:
        """The goals, then each form beside the plain saga, then the figures behind that."""
        console = console or Console(highlight=False)
        if not console.is_terminal:
            console.width = _WIDE
        console.print(self._goals())
        console.print(self._compared())
        console.print(self._figures())
        for journal in self.journals:
            ratios = [one for one in self.ratios if one.journal == journal]
            missed = [one.measure for one in ratios if not one.met]
            console.print(f"journal {journal}: goals met: {len(ratios) - len(missed)} of {len(ratios)}")
            for measure in missed:
                console.print(f"missed: {measure}")

    def _goals(self) -> Table:
        table = Table(title="against the goals: median of the rounds (lowest-highest)")
        for column in ("measure", "journal", "against", "ratio", "goal", "met"):
            table.add_column(column, no_wrap=True)
        for one in self.ratios:
            goal = f"{one.bound} {_unit(one.goal, one)}"
            table.add_row(one.measure, one.journal, one.against, _shown(one), goal, _yes(one.met))
        return table

    def _compared(self) -> Table:
        plain = {
            (row.journal, row.processes): row for row in self.rows if (row.placement, row.transactions) == ("plain", 3)
        }
        table = Table(title="each form over the plain saga of the same round, with as many worker processes")
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
            beside = plain.get((row.journal, row.processes))
            if beside is None or row is beside:
                continue
            told = [compared(row, beside, figure) for figure in columns.values() if figure]
            over = ["" if one is None else f"{one.median:.3g}x" for one in told]
            table.add_row(row.name, row.journal, str(row.processes), *over)
        return table

    def _figures(self) -> Table:
        table = Table(title="the figures of this run, on this machine, as it was just then")
        table.add_column("form", no_wrap=True)
        for column in (
            "journal",
            "processes",
            "sagas/s",
            "p50 / p95 alone, ms",
            "p50 / p95 loaded, ms",
            "CPU ms a saga: server / workers / PostgreSQL / client",
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


def _told(row: Row) -> dict[str, Any]:
    return {
        "placement": row.placement,
        "transactions": row.transactions,
        "journal": row.journal,
        "processes": row.processes,
        **{figure: asdict(row.spread(figure)) for figure in _KEPT_FIGURES},
        "rounds": [asdict(sample) for sample in row.samples],
    }


def _medians(row: Row, *figures: str) -> str:
    return " / ".join(f"{row.spread(figure).median:.3g}" for figure in figures)


def _shown(one: Ratio) -> str:
    if one.ratio is None or one.low is None or one.high is None:
        return "not measured"
    return f"{_unit(one.ratio, one)} ({one.low:.3g}-{one.high:.3g})"


def _unit(figure: float, one: Ratio) -> str:
    return f"{figure:.3g}x" if one.unit == "x" else f"{figure:.3g}"


def _yes(met: bool) -> str:
    return "[green]yes[/]" if met else "[red]no[/]"
