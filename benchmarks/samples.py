"""The data of a measurement: samples, each of one form in one round, and rows, which summarise them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from orchestrator.devserver.server import Journal

Placement = Literal["plain", "own execution", "partitions"]
JOURNALS: tuple[Journal, ...] = ("delete", "wal")
"""The first is the default of Temporal's development server, the second that of the embedded mode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The figures of one form in one round, with one number of worker processes and one journal."""

    placement: Placement
    transactions: int
    journal: Journal
    """The journal of the Temporal server's database file."""
    processes: int
    round: int
    sagas: int
    """How many sagas were measured under load."""
    throughput: float
    """Sagas per second under load."""
    loaded_p50_ms: float
    loaded_p95_ms: float
    """The time from publishing to the known outcome, under load."""
    alone_p50_ms: float
    alone_p95_ms: float
    """The same time with one saga at a time."""
    cpu_ms: Mapping[str, float]
    """CPU per saga under load: `server`, `workers`, `postgresql`, `client`."""
    history_events: float
    """History events per saga, under load."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The spread of a figure over several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> "Spread":
        """Return the median, the lowest and the highest figure. At least one figure is needed."""
        return cls(median(figures), min(figures), max(figures))

    def __str__(self) -> str:
        return f"{short(self.median)} ({short(self.low)}-{short(self.high)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """All rounds of one form, with one journal and one number of worker processes."""

    placement: Placement
    transactions: int
    journal: Journal
    processes: int
    samples: tuple[Sample, ...]

    def spread(self, figure: str) -> Spread:
        """Return the spread of a figure, such as `throughput` or `cpu_ms.server`."""
        return Spread.of([figure_of(sample, figure) for sample in self.samples])

    @property
    def name(self) -> str:
        """The row's name in tables."""
        return f"{self.placement}, {self.transactions} tx"


def rows_of(samples: Sequence[Sample]) -> list[Row]:
    """Return a row for each form, journal and number of processes, in the order of the first samples."""
    groups: dict[tuple[Journal, int, Placement, int], list[Sample]] = {}
    for sample in samples:
        key = (sample.journal, sample.processes, sample.placement, sample.transactions)
        groups.setdefault(key, []).append(sample)
    return [
        Row(
            placement=placement,
            transactions=transactions,
            journal=journal,
            processes=processes,
            samples=tuple(group),
        )
        for (journal, processes, placement, transactions), group in groups.items()
    ]


def figure_of(sample: Sample, figure: str) -> float:
    """Return a figure of a sample, such as `throughput` or `cpu_ms.server`. `cpu_ms.all` is the sum of all parts."""
    name, _, part = figure.partition(".")
    value: Any = getattr(sample, name)
    if not part:
        return float(value)
    return float(sum(value.values()) if part == "all" else value[part])


def compared(row: Row, against: Row, figure: str) -> Spread | None:
    """Return the ratio of two rows' figures, computed per round, or None if no round has both figures."""
    others = {sample.round: figure_of(sample, figure) for sample in against.samples}
    ratios = [
        figure_of(sample, figure) / others[sample.round] for sample in row.samples if others.get(sample.round, 0.0) > 0
    ]
    return Spread.of(ratios) if ratios else None


def short(figure: float) -> str:
    """Format a figure with three significant digits."""
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.3g}"
