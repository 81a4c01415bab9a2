"""What became of each cell: hit, declared not applicable with the reason, failed with its story, or trimmed."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.store.connections.url import Dialect

_WIDE = 160
_FAULT_WIDTH = 40
_COLUMN_WIDTH = 19
_SHOWN = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


class Verdict(StrEnum):
    """What became of a cell."""

    HIT = "hit"
    """The fault occurred, and everything was as it must be."""
    DECLARED = "declared"
    """It cannot occur there; the reason is told."""
    FAILED = "failed"
    """Something was not as it must be, or the fault did not occur."""
    TRIMMED = "trimmed"
    """Not tried in this run, to save time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One fault at one place of one example's saga, on one database."""

    orchestrator: str
    example: str
    fault: str
    place: str
    """`step 2, account.deposit`, or `the end`."""
    database: Dialect

    def __str__(self) -> str:
        return f"{self.fault} at {self.place} of {self.orchestrator} ({self.example}) on {_SHOWN[self.database]}"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one cell."""

    cell: Cell
    verdict: Verdict
    told: str = ""
    """The reason of a declared or trimmed cell; the story of a failed one."""

    def __str__(self) -> str:
        return f"{self.cell}: {self.verdict}" + (f"\n{self.told}" if self.told else "")


@dataclass
class Report:
    """Every cell of a run."""

    results: list[Result] = field(default_factory=list[Result])

    def add(self, results: Iterable[Result]) -> None:
        """More cells."""
        self.results += results

    def of(self, verdict: Verdict) -> Sequence[Result]:
        """Those that came to a verdict."""
        return [result for result in self.results if result.verdict is verdict]

    @property
    def tried(self) -> int:
        """Cells that were looked at: all but the trimmed. Each is hit, declared or failed."""
        return len(self.results) - len(self.of(Verdict.TRIMMED))

    @property
    def exit_code(self) -> int:
        """1 if a cell failed, or none was tried."""
        return int(bool(self.of(Verdict.FAILED)) or not self.tried)

    @property
    def last_line(self) -> str:
        """`cells tried 12: hit 10, declared 2, failed 0`."""
        counted = ", ".join(
            f"{verdict} {len(self.of(verdict))}" for verdict in (Verdict.HIT, Verdict.DECLARED, Verdict.FAILED)
        )
        return f"cells tried {self.tried}: {counted}"

    def show(self) -> None:
        """Print stories of what failed, reasons of what was declared, a table, and the count as the last line."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console(soft_wrap=True, highlight=False)
        if not console.is_terminal:
            console.width = _WIDE
        for result in self.of(Verdict.FAILED):
            console.print(Text(f"{result}\n"))
        reasons = Counter(result.told for result in self.of(Verdict.DECLARED))
        for reason, times in reasons.most_common():
            console.print(Text(f"declared {times:>4}: {reason}"))
        trimmed = Counter(result.told for result in self.of(Verdict.TRIMMED))
        for reason, times in trimmed.most_common():
            console.print(Text(f"trimmed  {times:>4}: {reason}"))
        cells = [one.cell for one in self.results]
        columns: list[tuple[str, Dialect]] = list(dict.fromkeys((cell.orchestrator, cell.database) for cell in cells))
        beside = max(1, (console.width - _FAULT_WIDTH) // _COLUMN_WIDTH)
        for first in range(0, len(columns), beside):
            table = Table(title="hit / declared / failed")
            table.add_column("fault", no_wrap=True)
            for orchestrator, database in columns[first : first + beside]:
                table.add_column(f"{orchestrator}\n{_SHOWN[database]}", justify="right", no_wrap=True)
            for fault in dict.fromkeys(cell.fault for cell in cells):
                table.add_row(fault, *(self._counted(fault, *column) for column in columns[first : first + beside]))
            console.print(table)
        console.print(Text(self.last_line))

    def _counted(self, fault: str, orchestrator: str, database: Dialect) -> Any:
        from rich.text import Text

        here = [
            one.verdict
            for one in self.results
            if (one.cell.fault, one.cell.orchestrator, one.cell.database) == (fault, orchestrator, database)
        ]
        counted = Counter(here)
        if counted[Verdict.TRIMMED] == len(here):
            return Text("trimmed" if here else "", style="dim")
        text = " / ".join(str(counted[one]) for one in (Verdict.HIT, Verdict.DECLARED, Verdict.FAILED))
        if counted[Verdict.TRIMMED]:
            text += f" ({counted[Verdict.TRIMMED]} trimmed)"
        return Text(text, style="bold red" if counted[Verdict.FAILED] else "")
