"""The console script's entry: runs a command, tells what went wrong in one sentence, and leaves with its exit code."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import typer

from orchestrator.cli.app import app
from orchestrator.cli.terminal.exit_codes import Exit, told
from orchestrator.cli.terminal.invocation import this_script
from orchestrator.cli.terminal.output import Output, lost_answer, sentence
from orchestrator.telemetry.streams import open_standard_streams, silence, write_line


def main() -> NoReturn:
    """Run the command line of this process, and leave it."""
    # The application lies in the checkout; only the engine is installed.
    sys.path.insert(0, os.getcwd())
    open_standard_streams()
    _leave(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; every expected failure becomes an exit code and a one-sentence message."""
    exit_code = _run(arguments)
    if (fault := lost_answer()) is None:
        return exit_code
    sentence(f"The answer could not be written to stdout ({fault.strerror or fault}); what the command did is done.")
    return exit_code or Exit.OUTPUT_LOST


def _run(arguments: Sequence[str]) -> int:
    try:
        _refuse_empty(arguments)
        exit_code = app(args=list(arguments), prog_name=this_script(), standalone_mode=False)
        return int(exit_code or 0)
    except typer.Abort:
        return Exit.STOPPED
    except SystemExit as left:  # typer's way where help goes into a pipe that nobody reads
        return left.code if isinstance(left.code, int) else Exit.COMPLETED
    except Exception as fault:
        return _tell(fault, as_json="--json" in arguments)


def _refuse_empty(arguments: Sequence[str]) -> None:
    """An empty argument is mostly a shell variable that is not set: with the default instead, another thing is done.

    Raises:
        typer.TyperException: there is one.
    """
    for number, argument in enumerate(arguments):
        option, assigned, value = argument.partition("=")
        is_option = option.startswith("-") and bool(assigned)
        if (value if is_option else argument).strip():
            continue
        before = arguments[number - 1] if number else ""
        what = option if is_option else before if before.startswith("-") and before != "-" else f"Argument {number + 1}"
        raise typer.TyperException(f"{what} is empty. Give it a value, or leave it out; is a shell variable not set?")


def _tell(fault: Exception, *, as_json: bool) -> int:
    expected = told(fault)
    if expected is None:
        write_line("".join(traceback.format_exception(fault)), to_stderr=True)
        if as_json:
            Output(as_json).document({"error": {"code": "bug", "message": f"{type(fault).__name__}: {fault}"}})
        return Exit.BUG
    sentence(expected.message)
    if as_json:
        Output(as_json).document({"error": expected.as_json()})
    return expected.exit


def _leave(exit_code: int) -> NoReturn:
    """Leave without Python's own way out.

    temporalio's native runtime sometimes aborts there, after all the work is done: "Fatal Python error:
    PyGILState_Release", and the exit code would be 134 instead of ours.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            silence(stream)
    os._exit(exit_code)
