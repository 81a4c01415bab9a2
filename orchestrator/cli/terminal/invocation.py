"""Commands as they must be typed here, so that what is printed can be pasted."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def this_script() -> str:
    """`orchestrator` if the shell would find this very script under that name, else the way to it from here."""
    started = Path(sys.argv[0])
    found = shutil.which(started.name)
    if found is not None and started.exists() and Path(found).samefile(started):
        return started.name
    return _from_here(started)


def command(*arguments: str) -> str:
    """A command of this script, quoted for the shell."""
    return f"{this_script()} {shlex.join(arguments)}"


def worker_command() -> str:
    """What starts the application's worker with this interpreter."""
    interpreter = Path(sys.executable).with_name("python")
    if not interpreter.exists():
        interpreter = Path(sys.executable)
    found = shutil.which("python")
    # A virtual environment's interpreter is a link to the system's: compare where it stands, not what it is.
    name = "python" if found and Path(found).parent == interpreter.parent else _from_here(interpreter)
    return f"{name} worker.py"


def _from_here(path: Path) -> str:
    absolute = path.absolute()
    here = Path.cwd()
    shown = os.path.join(".", absolute.name) if absolute.parent == here else str(absolute)
    if absolute.is_relative_to(here) and absolute.parent != here:
        shown = str(absolute.relative_to(here))
    return shlex.quote(shown)
