"""The console script's entry point: runs a command, reports a failure in one sentence, and exits with its code."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import typer

from orchestrator.cli.app import app
from orchestrator.cli.terminal.exit_codes import Exit, describe_failure
from orchestrator.cli.terminal.invocation import this_script
from orchestrator.cli.terminal.output import Output, lost_answer, print_error
from orchestrator.telemetry.streams import open_standard_streams, silence, write_line


def main() -> NoReturn:
    """Run the command given on this process's command line, then exit."""
    # The application is imported from the current folder; only the engine is installed.
    sys.path.insert(0, os.getcwd())
    open_standard_streams()
    _exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; every expected failure becomes an exit code and a one-sentence message."""
    exit_code = _run(arguments)
    if (fault := lost_answer()) is None:
        return exit_code
    print_error(f"The answer could not be written to stdout ({fault.strerror or fault}), but the command did its work.")
    return exit_code or Exit.OUTPUT_LOST


def _run(arguments: Sequence[str]) -> int:
    try:
        _refuse_empty(arguments)
        exit_code = app(args=list(arguments), prog_name=this_script(), standalone_mode=False)
        return int(exit_code or 0)
    except typer.Abort:
        return Exit.STOPPED
    except SystemExit as requested:  # Typer raises this when it writes help to a closed pipe.
        return requested.code if isinstance(requested.code, int) else Exit.COMPLETED
    except Exception as fault:
        return _report(fault, as_json="--json" in arguments)


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse empty arguments, because most come from an unset shell variable and a default would do the unexpected.

    Raises:
        typer.TyperException: an argument is empty.
    """
    for number, argument in enumerate(arguments):
        option, assigned, value = argument.partition("=")
        is_option = option.startswith("-") and bool(assigned)
        if (value if is_option else argument).strip():
            continue
        before = arguments[number - 1] if number else ""
        name = option if is_option else before if before.startswith("-") and before != "-" else f"Argument {number + 1}"
        raise typer.TyperException(
            f"{name} is empty. Give it a value, or leave it out. If the value comes from a shell variable, check that "
            "the variable is set."
        )


def _report(fault: Exception, *, as_json: bool) -> int:
    """Print what went wrong, and return the exit code."""
    failure = describe_failure(fault)
    if failure is None:
        write_line("".join(traceback.format_exception(fault)), to_stderr=True)
        if as_json:
            Output(as_json).document({"error": {"code": "bug", "message": f"{type(fault).__name__}: {fault}"}})
        return Exit.BUG
    print_error(failure.message)
    if as_json:
        Output(as_json).document({"error": failure.as_json()})
    return failure.exit


def _exit(exit_code: int) -> NoReturn:
    """Exit without the interpreter's own shutdown.

    During that shutdown temporalio's native runtime sometimes aborts with "Fatal Python error: PyGILState_Release",
    after all work is done, and the exit code would be 134 instead of this one.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            silence(stream)
    os._exit(exit_code)
