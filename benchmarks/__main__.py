"""`make bench QUICK=1`: measures, prints a report and writes `benchmarks/latest.json`.

A missed goal is reported, but it is not a failure.
"""

import asyncio
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.forms import NotCompleted
from benchmarks.measuring import PROC
from benchmarks.report import Report
from benchmarks.rounds import Plan, Say, measure
from benchmarks.samples import JOURNALS
from benchmarks.stack import ROOT, MeasurementFailed
from orchestrator.devserver.server import Journal
from orchestrator.errors import OrchestratorError

LATEST = ROOT / "benchmarks" / "latest.json"
_EXIT_FAILED = 1
_EXIT_MISUSE = 2
_EXIT_TERMINATED = 128 + signal.SIGTERM


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Run fewer, shorter rounds: under ten minutes.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds; each measures every form.  [7; quick 3]")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="How long a load is measured.  [15; quick 6]")] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Sagas in flight under load.")] = 50,
    alone: Annotated[int | None, typer.Option(min=1, help="Sagas run one at a time.  [40; quick 15]")] = None,
    processes: Annotated[
        list[int] | None, typer.Option(min=1, help="Worker processes. May be repeated.  [1, 2; quick 1]")
    ] = None,
    journal: Annotated[
        Journal | None, typer.Option(help="Journal of Temporal's database file. By default, both are measured.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the order of the forms in each round.")] = 1,
    output: Annotated[Path, typer.Option(help="File for the figures.")] = LATEST,
) -> None:
    """Compare the engine with a plain Temporal saga."""
    progress = Console(stderr=True, highlight=False, soft_wrap=True)
    if not (PROC / "self" / "stat").exists():
        progress.print(
            "The CPU time of each process is read from /proc, which this system lacks. Run the benchmark on Linux, or "
            "in a container."
        )
        raise typer.Exit(_EXIT_MISUSE)
    plan = Plan(
        rounds=rounds or (3 if quick else 7),
        seconds=seconds or (6.0 if quick else 15.0),
        at_once=at_once,
        alone=alone or (15 if quick else 40),
        processes=tuple(processes or ((1,) if quick else (1, 2))),
        journals=JOURNALS if journal is None else (journal,),
        seed=seed,
        minutes=9.0 if quick else None,
    )
    try:
        report = asyncio.run(_measured(plan, progress.print))
    except* (MeasurementFailed, NotCompleted, OrchestratorError) as faults:
        for fault in _leaves(faults):
            progress.print(str(fault), markup=False)
        sys.exit(_EXIT_FAILED)
    if report is None:
        raise typer.Exit(_EXIT_TERMINATED)
    report.write(output)
    report.show()


async def _measured(plan: Plan, say: Say) -> Report | None:
    """Return the report, or None after SIGTERM. PostgreSQL is not a child process, so it must be stopped then."""
    measuring = asyncio.ensure_future(measure(plan, say))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, measuring.cancel)
    try:
        return await measuring
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # Ctrl-C
            raise
        return None


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[BaseException]:
    for fault in group.exceptions:
        if isinstance(fault, BaseExceptionGroup):
            yield from _leaves(fault)
        else:
            yield fault


if __name__ == "__main__":
    typer.run(bench)
