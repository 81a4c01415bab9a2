"""Commands in the form in which this shell runs them, so that printed commands can be pasted."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from orchestrator.settings import command_to_start

_SCRIPT = "orchestrator"
_MODULE = "__main__.py"
"""The script's name if it was started by `python -m orchestrator`."""


def this_script() -> str:
    """Return `orchestrator` if the shell would run this same script under that name, otherwise the script's path."""
    script = Path(sys.argv[0])
    return f"{_interpreter()} -m {script.parent.name}" if script.name == _MODULE else script_command(script)


def script_command(script: Path) -> str:
    """Return a script's name if the shell would run this same file under that name, otherwise its path."""
    on_path = shutil.which(script.name)
    if on_path is not None and script.exists() and Path(on_path).samefile(script):
        return script.name
    return _shell_path(script)


def command(*arguments: str) -> str:
    """Return a command line of this script, quoted for the shell."""
    return f"{this_script()} {shlex.join(arguments)}"


def worker_command() -> str:
    """Return the command that starts the project's worker, with this interpreter or this script."""
    program, *arguments = command_to_start("worker").split(" ")
    program = {"python": _interpreter, _SCRIPT: this_script}.get(program, lambda: program)()
    return " ".join([program, *arguments])


def _interpreter() -> str:
    interpreter = Path(sys.executable).with_name("python")
    if not interpreter.exists():
        interpreter = Path(sys.executable)
    on_path = shutil.which("python")
    # A virtual environment's interpreter is a link to the system's, so compare the folders and not the resolved files.
    is_on_path = on_path is not None and Path(on_path).parent == interpreter.parent
    return "python" if is_on_path else _shell_path(interpreter)


def _shell_path(path: Path) -> str:
    absolute = path.absolute()
    here = Path.cwd()
    shown = os.path.join(".", absolute.name) if absolute.parent == here else str(absolute)
    if absolute.is_relative_to(here) and absolute.parent != here:
        shown = str(absolute.relative_to(here))
    return shlex.quote(shown)
