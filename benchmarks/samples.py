"""What is kept of a measurement: one sample a form, a round, a number of worker processes and a server's journal; rows
sum them up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from orchestrator.devserver.server import Journal

Placement = Literal["plain", "own execution", "partitions"]
JOURNALS: tuple[Journal, ...] = ("delete", "wal")
"""The first is what Temporal's development server has unless told, the second what the embedded mode gives it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One form in one round."""

    placement: Placement
    transactions: int
    journal: Journal
    """Of the Temporal server's database file."""
    processes: int
    round: int
    sagas: int
    """That were measured under load."""
    throughput: float
    """Sagas a second under load."""
    loaded_p50_ms: float
    loaded_p95_ms: float
    """From publishing to the known outcome, under load."""
    alone_p50_ms: float
    alone_p95_ms: float
    """The same, one saga at a time."""
    cpu_ms: Mapping[str, float]
    """CPU a saga under load: `server`, `workers`, `postgresql`, `client`."""
    history_events: float
    """A saga, under load."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Figures of several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> "Spread":
        """Their median, the lowest and the highest; at least one is needed."""
        return cls(median(figures), min(figures), max(figures))

    def __str__(self) -> str:
        return f"{short(self.median)} ({short(self.low)}-{short(self.high)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One form, with one journal and one number of worker processes, over all rounds."""

    placement: Placement
    transactions: int
    journal: Journal
    processes: int
    samples: tuple[Sample, ...]

    def spread(self, figure: str) -> Spread:
        """Of a sample's figure, as `throughput`, or `cpu_ms.server`."""
        return Spread.of([figure_of(sample, figure) for sample in self.samples])

    @property
    def name(self) -> str:
        """As it is shown."""
        return f"{self.placement}, {self.transactions} tx"


def rows_of(samples: Sequence[Sample]) -> list[Row]:
    """A row for each form, journal and number of processes, in the order in which they came first."""
    found: dict[tuple[Journal, int, Placement, int], list[Sample]] = {}
    for sample in samples:
        key = (sample.journal, sample.processes, sample.placement, sample.transactions)
        found.setdefault(key, []).append(sample)
    return [
        Row(
            placement=placement,
            transactions=transactions,
            journal=journal,
            processes=processes,
            samples=tuple(of_row),
        )
        for (journal, processes, placement, transactions), of_row in found.items()
    ]


def figure_of(sample: Sample, figure: str) -> float:
    """One figure, as `throughput`, or `cpu_ms.server`; `cpu_ms.all` is the sum."""
    name, _, part = figure.partition(".")
    value: Any = getattr(sample, name)
    if not part:
        return float(value)
    return float(sum(value.values()) if part == "all" else value[part])


def compared(row: Row, against: Row, figure: str) -> Spread | None:
    """A row's figure over another's, round by round; None if no round has both, or the other's is nothing."""
    others = {sample.round: figure_of(sample, figure) for sample in against.samples}
    ratios = [
        figure_of(sample, figure) / others[sample.round] for sample in row.samples if others.get(sample.round, 0.0) > 0
    ]
    return Spread.of(ratios) if ratios else None


def short(figure: float) -> str:
    """Three digits that matter."""
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.3g}"
