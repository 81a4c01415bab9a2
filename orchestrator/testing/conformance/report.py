"""The result of each cell: hit, declared not applicable with a reason, failed with a description, or trimmed."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.store.connections.url import Dialect

_WIDE = 160
_FAULT_WIDTH = 40
_COLUMN_WIDTH = 19
_DATABASE_NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


class Verdict(StrEnum):
    """How a cell ended."""

    HIT = "hit"
    """The fault occurred, and every check passed."""
    DECLARED = "declared"
    """The fault cannot occur there; the result says why."""
    FAILED = "failed"
    """A check failed, or the fault did not occur."""
    TRIMMED = "trimmed"
    """Left out of this run to save time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One fault at one step, or at the end, of one example's saga, on one database."""

    orchestrator: str
    example: str
    fault: str
    location: str
    """`step 2, account.deposit`, or `the end`."""
    database: Dialect

    def __str__(self) -> str:
        return (
            f"{self.fault} at {self.location} of {self.orchestrator} ({self.example}) "
            f"on {_DATABASE_NAMES[self.database]}"
        )


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one cell."""

    cell: Cell
    verdict: Verdict
    detail: str = ""
    """Why the cell was declared or trimmed, or a description of the failure."""

    def __str__(self) -> str:
        return f"{self.cell}: {self.verdict}" + (f"\n{self.detail}" if self.detail else "")


@dataclass
class Report:
    """The results of a run."""

    results: list[Result] = field(default_factory=list[Result])

    def add(self, results: Iterable[Result]) -> None:
        """Add results."""
        self.results += results

    def of(self, verdict: Verdict) -> Sequence[Result]:
        """The results with this verdict."""
        return [result for result in self.results if result.verdict is verdict]

    @property
    def tried(self) -> int:
        """How many cells were tried: all except the trimmed ones. Each is hit, declared or failed."""
        return len(self.results) - len(self.of(Verdict.TRIMMED))

    @property
    def exit_code(self) -> int:
        """1 if a cell failed or none was tried, otherwise 0."""
        return int(bool(self.of(Verdict.FAILED)) or not self.tried)

    @property
    def last_line(self) -> str:
        """The counts, for example `cells tried 12: hit 10, declared 2, failed 0`."""
        counted = ", ".join(
            f"{verdict} {len(self.of(verdict))}" for verdict in (Verdict.HIT, Verdict.DECLARED, Verdict.FAILED)
        )
        return f"cells tried {self.tried}: {counted}"

    def show(self) -> None:
        """Print the failures, the reasons of declared and trimmed cells, a table and, as the last line, the counts."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console(soft_wrap=True, highlight=False)
        if not console.is_terminal:
            console.width = _WIDE
        for result in self.of(Verdict.FAILED):
            console.print(Text(f"{result}\n"))
        reasons = Counter(result.detail for result in self.of(Verdict.DECLARED))
        for reason, times in reasons.most_common():
            console.print(Text(f"declared {times:>4}: {reason}"))
        trimmed = Counter(result.detail for result in self.of(Verdict.TRIMMED))
        for reason, times in trimmed.most_common():
            console.print(Text(f"trimmed  {times:>4}: {reason}"))
        cells = [result.cell for result in self.results]
        columns: list[tuple[str, Dialect]] = list(dict.fromkeys((cell.orchestrator, cell.database) for cell in cells))
        columns_per_table = max(1, (console.width - _FAULT_WIDTH) // _COLUMN_WIDTH)
        for first in range(0, len(columns), columns_per_table):
            table = Table(title="hit / declared / failed")
            table.add_column("fault", no_wrap=True)
            shown = columns[first : first + columns_per_table]
            for orchestrator, database in shown:
                table.add_column(f"{orchestrator}\n{_DATABASE_NAMES[database]}", justify="right", no_wrap=True)
            for fault in dict.fromkeys(cell.fault for cell in cells):
                table.add_row(fault, *(self._counts_of(fault, *column) for column in shown))
            console.print(table)
        console.print(Text(self.last_line))

    def _counts_of(self, fault: str, orchestrator: str, database: Dialect) -> Any:
        from rich.text import Text

        verdicts = [
            result.verdict
            for result in self.results
            if (result.cell.fault, result.cell.orchestrator, result.cell.database) == (fault, orchestrator, database)
        ]
        counted = Counter(verdicts)
        if counted[Verdict.TRIMMED] == len(verdicts):
            return Text("trimmed" if verdicts else "", style="dim")
        text = " / ".join(str(counted[verdict]) for verdict in (Verdict.HIT, Verdict.DECLARED, Verdict.FAILED))
        if counted[Verdict.TRIMMED]:
            text += f" ({counted[Verdict.TRIMMED]} trimmed)"
        return Text(text, style="bold red" if counted[Verdict.FAILED] else "")
