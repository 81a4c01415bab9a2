"""`make mutants`: break a copy of the engine in one way at a time, and check that a named test notices each.

`python -m tests.mutants.run --list` lists the mutants; `python -m tests.mutants.run fence` runs one of them, and
`--slice 2/6` every sixth.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.testing.slices import WHOLE, Slice
from tests.mutants.mutants import MUTANTS, Mutant, NoLongerFits
from tests.mutants.sandbox import Run, Sandbox, Verdict, judge

LIMIT = 60.0
"""Seconds within which a mutant must be caught."""
LIMIT_OF_ALL = 180.0
"""Seconds that all named tests together may take on the unbroken engine."""


def main(arguments: list[str]) -> int:
    """Return 0 if every mutant was caught, and 1 if one survived or a test already fails on the unbroken engine."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("name", nargs="*", help="only these mutants")
    parser.add_argument("--slice", type=Slice.parse, default=WHOLE, metavar="i/n", help="every n-th of them")
    parser.add_argument("--list", action="store_true", help="list them and run nothing")
    options = parser.parse_args(arguments)
    named: list[str] = options.name
    if unknown := sorted(set(named) - {mutant.name for mutant in MUTANTS}):
        parser.error(f"no such mutant: {', '.join(unknown)}; --list shows them")
    mutants = options.slice.of([mutant for mutant in MUTANTS if not named or mutant.name in named])
    console = Console(width=None if sys.stdout.isatty() else 120)
    if options.list:
        for mutant in mutants:
            console.print(f"[bold]{mutant.name}[/bold]: {escape(mutant.breaks)}")
        return 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        return _run(console, Sandbox(Path(folder)), mutants)


def _run(console: Console, sandbox: Sandbox, mutants: list[Mutant]) -> int:
    tests = sorted({test for mutant in mutants for test in mutant.caught_by})
    console.print("First the unbroken engine: every named test must pass ...")
    whole = sandbox.test(tests, limit=LIMIT_OF_ALL)
    unproven = [test for test in tests if not whole.passed(test)]
    if whole.exit_code != 0 or unproven:
        console.print(whole.output, markup=False, highlight=False)
        console.print("Without any mutant these did not run and pass, so no mutant was tried:", *unproven, sep="\n  ")
        return 1
    table = Table("mutant", "what breaks", show_lines=True)
    table.add_column("caught by", overflow="fold")
    table.add_column("seconds", justify="right")
    caught = 0
    for mutant in mutants:
        verdict, seconds = _try(console, sandbox, mutant)
        by = f"[red]survived: {escape(verdict.why)}[/red]"
        if verdict.caught_by is not None:
            caught += 1
            by = escape(f"{verdict.caught_by.rpartition('::')[2]}\n{_first_line(verdict.why)}")
        table.add_row(mutant.name, escape(mutant.breaks), by, f"{seconds:.1f}")
    console.print(table)
    console.print(_summary(len(mutants), caught), highlight=False)
    return 0 if caught == len(mutants) else 1


def _try(console: Console, sandbox: Sandbox, mutant: Mutant) -> tuple[Verdict, float]:
    with console.status(f"{mutant.name}: {escape(mutant.breaks)}"):
        try:
            with sandbox.broken_by(mutant):
                run = sandbox.test(mutant.caught_by, limit=LIMIT)
        except NoLongerFits as fault:
            return Verdict(None, str(fault)), 0.0
        verdict = judge(mutant, run)
    if verdict.caught_by is None:
        console.print(f"{mutant.name} survived: {verdict.why}", markup=False)
        console.print(*_last(run), sep="\n", markup=False, highlight=False)
    return verdict, run.seconds


def _first_line(text: str) -> str:
    return (text.splitlines() or [""])[0][:100]


def _last(run: Run) -> Iterable[str]:
    return run.output.splitlines()[-40:]


def _summary(tried: int, caught: int) -> str:
    return f"mutants {tried}: caught {caught}, survived {tried - caught}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
