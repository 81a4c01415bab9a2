"""The output of a run: the plan, the faults that it needs and had, and what the audit found."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from orchestrator.protocol.commands import Phase
from tests.chaos.audit import Books, Findings
from tests.chaos.plan import Act, Fault, Minima, Target

_SHOWN = 15


@dataclass(frozen=True, slots=True)
class Hit:
    """Something that must happen often enough for the run to be meaningful."""

    label: str
    least: float
    count: float

    @property
    def is_enough(self) -> bool:
        """Whether it happened often enough."""
        return self.count >= self.least


def hits(least: Minima, hit_counts: Counter[tuple[Act, Target]], books: Books, late: int) -> list[Hit]:
    """Compare how often each thing happened with how often it must happen."""
    kills = {part: hit_counts[Act.KILL, Target(part)] for part in least.kills}
    if Target.WORKER in kills:
        kills[Target.WORKER.value] += hit_counts[Act.KILL, Target.SUPERVISOR]
    cancelled = [row for row in books.sagas if row["phase"] == Phase.CANCELLED.value and row["id"] in books.started]
    terminations = hit_counts[Act.TERMINATE, Target.SAGA] + hit_counts[Act.TERMINATE, Target.PARTITION]
    percent = 100 * len(cancelled) / max(1, len(books.sagas))
    return [
        *(Hit(f"kills of {part}", count, kills[part]) for part, count in least.kills.items()),
        Hit("sagas cancelled after their first step began, %", 100 * least.cancelled, round(percent, 1)),
        Hit("late attempts barred", least.late, late),
        Hit("executions terminated", least.terminations, terminations),
        *([Hit("failovers", least.failovers, hit_counts[Act.FAIL_OVER, Target.POSTGRESQL])] if least.failovers else []),
    ]


def show_plan(console: Console, planned: Sequence[Fault]) -> None:
    """Print one line per fault."""
    for fault in planned:
        console.print(str(fault), style="dim", highlight=False)


def show_hits(console: Console, needed: Sequence[Hit], least: Minima, hit_counts: Counter[tuple[Act, Target]]) -> None:
    """Print a table of what happened."""
    table = Table(
        "what", "at least", "count", title="" if least.is_full else "fewer sagas or minutes than the full run:"
    )
    for hit in needed:
        colour = "green" if hit.is_enough else "red"
        table.add_row(hit.label, f"{hit.least:g}", f"[{colour}]{hit.count:g}[/{colour}]")
    console.print(table)
    counts = {f"{act} {target}": count for (act, target), count in sorted(hit_counts.items())}
    console.print("faults: " + ", ".join(f"{fault} {count}" for fault, count in counts.items()), highlight=False)
    if not least.is_full:
        console.print("The minimum counts are in proportion; they are full from SAGAS=2000 MINUTES=3.", highlight=False)


def show_clocks(console: Console, clocks: Sequence[str]) -> None:
    """Print how the clocks of the worker processes and of their supervisors were wrong."""
    kinds = Counter(clocks).most_common()
    console.print("clocks of processes: " + ", ".join(f"{kind} {count}" for kind, count in kinds), highlight=False)


def show_findings(console: Console, findings: Findings, books: Books) -> None:
    """Print how the sagas ended, and the first of the findings."""
    ends = Counter(row["error_code"] or row["phase"] for row in books.sagas)
    console.print("ended as: " + ", ".join(f"{end} {count}" for end, count in ends.most_common()), highlight=False)
    console.print(f"open {len(books.open_sagas)}, stuck {len(books.stuck_sagas)}", highlight=False)
    for name in ("lost", "doubled", "wedged", "wrong"):
        faults: list[str] = getattr(findings, name)
        for fault in faults[:_SHOWN]:
            console.print(f"{name}: {fault}", style="red", markup=False, highlight=False)
        if len(faults) > _SHOWN:
            console.print(f"{name}: {len(faults) - _SHOWN} more", style="red", highlight=False)
