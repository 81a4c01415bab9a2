"""`make mutants-under-chaos`: a short chaos for each mutant that concurrency can show, the engine broken in a copy.

Each must end with another verdict than `lost 0, doubled 0, wedged 0` and nothing wrong; that the whole engine ends with
exactly that is what `make chaos` is for. `python -m tests.mutants.under_chaos guard` runs one.
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
"""Seconds for one run, with all that it starts and stops."""
_TRIES = ((400, 0.8), (400, 0.8), (1500, 2.4))
"""Sagas and minutes, each with another seed, until one shows it: what is met in a short run is chance."""
_FOUND = re.compile(r"^(lost|doubled|wedged|wrong): .*$", re.MULTILINE)
_VERDICT = re.compile(r"^lost \d+, doubled \d+, wedged \d+$", re.MULTILINE)


def found_in(said: str) -> str | None:
    """The first fault that a run told of; None if its audit found none, or never came to be."""
    fault = _FOUND.search(said)
    return fault.group() if fault is not None and _VERDICT.search(said) else None


def main(arguments: Sequence[str]) -> int:
    """Exit code 0 if chaos caught each."""
    parser = argparse.ArgumentParser(prog="make mutants-under-chaos", description=__doc__)
    shown = {mutant.name: mutant for mutant in MUTANTS if not mutant.unseen}
    parser.add_argument("name", nargs="*", choices=[*shown, []], help="only these mutants")
    given: list[str] = parser.parse_args(arguments).name or list(shown)
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table("mutant", "what breaks", "what chaos said", "seed")
    caught = 0
    for name in given:
        seed, said = 0, None
        while said is None and seed < len(_TRIES):
            seed += 1
            with console.status(f"{name}, seed {seed}"):
                said = found_in(_chaos(name, seed))
        caught += said is not None
        table.add_row(name, escape(shown[name].breaks), escape(said or "nothing")[:200], str(seed))
    console.print(table)
    for mutant in MUTANTS:
        if mutant.unseen:
            console.print(f"not tried: {mutant.name}: {mutant.unseen}", highlight=False, markup=False)
    console.print(f"mutants {len(given)}: caught {caught}, survived {len(given) - caught}", highlight=False)
    return 0 if caught == len(given) else 1


def _chaos(name: str, seed: int) -> str:
    command = [sys.executable, "-m", "tests.chaos.run", "--mutant", name, "--seed", str(seed)]
    sagas, minutes = _TRIES[seed - 1]
    command += ["--sagas", str(sagas), "--minutes", str(minutes), "--remove"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=_LIMIT)
    return ran.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
