"""`make mutants-under-chaos`: a short chaos run for each mutant that concurrency can reveal, on a broken copy.

Each run must report a fault. That the unbroken engine ends with `lost 0, doubled 0, wedged 0` and nothing wrong is the
purpose of `make chaos`. `python -m tests.mutants.under_chaos guard` runs one mutant.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.mutants.mutants import MUTANTS
from tests.mutants.sandbox import ROOT

_LIMIT = 1200.0
"""Seconds for one run, including the time to start and stop its processes."""
_TRIES = ((400, 0.8), (400, 0.8), (1500, 2.4))
"""Sagas and minutes of each attempt, each with another seed, because a short run may not hit the fault."""
_FAULT = re.compile(r"^(lost|doubled|wedged|wrong): .*$", re.MULTILINE)
_VERDICT = re.compile(r"^lost \d+, doubled \d+, wedged \d+$", re.MULTILINE)


def fault_in(output: str) -> str | None:
    """Return the first fault that a run reported, or None if its audit found none or never ran."""
    fault = _FAULT.search(output)
    return fault.group() if fault is not None and _VERDICT.search(output) else None


def main(arguments: Sequence[str]) -> int:
    """Return 0 if chaos caught each mutant."""
    parser = argparse.ArgumentParser(prog="make mutants-under-chaos", description=__doc__)
    revealable = {mutant.name: mutant for mutant in MUTANTS if not mutant.unseen}
    parser.add_argument("name", nargs="*", choices=[*revealable, []], help="only these mutants")
    names: list[str] = parser.parse_args(arguments).name or list(revealable)
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table("mutant", "what breaks", "what chaos reported", "seed")
    caught = 0
    for name in names:
        seed, fault = 0, None
        while fault is None and seed < len(_TRIES):
            seed += 1
            with console.status(f"{name}, seed {seed}"):
                fault = fault_in(_chaos(name, seed))
        caught += fault is not None
        table.add_row(name, escape(revealable[name].breaks), escape(fault or "nothing")[:200], str(seed))
    console.print(table)
    for mutant in MUTANTS:
        if mutant.unseen:
            console.print(f"not tried: {mutant.name}: {mutant.unseen}", highlight=False, markup=False)
    console.print(f"mutants {len(names)}: caught {caught}, survived {len(names) - caught}", highlight=False)
    return 0 if caught == len(names) else 1


def _chaos(name: str, seed: int) -> str:
    command = [sys.executable, "-m", "tests.chaos.run", "--mutant", name, "--seed", str(seed)]
    sagas, minutes = _TRIES[seed - 1]
    command += ["--sagas", str(sagas), "--minutes", str(minutes), "--remove"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=_LIMIT)
    return ran.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
