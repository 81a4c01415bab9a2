"""Running a script of many processes to its end: Ctrl-C, SIGTERM, failures, and how it leaves."""

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from orchestrator.cli.terminal.exit_codes import Exit, describe_failure
from orchestrator.errors import OrchestratorError
from orchestrator.settings import InvalidSettings, Settings

_STOPPED = 128
"""Added to a signal's number, as shells do."""


class GaveUp(Exception):
    """The script cannot go on. The message is for a person, who sees no traceback."""


def settings_or_exit(**values: Any) -> Settings:
    """The settings, with these instead of what is set; an invalid one ends the script with its sentence and code."""
    try:
        return Settings(**values)
    except InvalidSettings as fault:
        _tell(str(fault))
        sys.exit(exit_code_of(fault))


def exit_code_of(fault: OrchestratorError) -> int:
    """The code that the command line ends with for the same fault; 1 for one that it does not expect."""
    expected = describe_failure(fault)
    return Exit.FAILED if expected is None else expected.exit


def run_script(main: Callable[[], Coroutine[Any, Any, int]], *, log: Path) -> NoReturn:
    """Run to the end and leave with its exit code.

    The first Ctrl-C, SIGTERM or hang-up cancels `main`, so that what it started is stopped in order. The second ends
    this process at once, and its children with it.

    Args:
        main: returns the exit code.
        log: takes the traceback of an error that nobody foresaw.
    """
    code = 1
    try:
        code = asyncio.run(_stoppable(main, log))
        _flush()
    finally:
        # Not `sys.exit`: the Temporal SDK's threads may still call into an interpreter that is being taken down, which
        # ends in "Fatal Python error: PyGILState_Release" with all the work done.
        os._exit(code)


async def _stoppable(main: Callable[[], Coroutine[Any, Any, int]], log: Path) -> int:
    task = asyncio.ensure_future(main())
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if received:
            os._exit(_STOPPED + number)
        received.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # What is ignored stays ignored: `nohup`, and Ctrl-C for a job in the background.
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        return _STOPPED + (received[0] if received else signal.SIGTERM)
    except BrokenPipeError:
        pass  # whoever read our output has seen enough
    except OrchestratorError as fault:
        _tell(str(fault))
        return exit_code_of(fault)
    except GaveUp as fault:
        _tell(str(fault))
    except Exception as fault:
        _write(log, fault)
        _tell(f"Unforeseen: {type(fault).__name__}: {fault}. All of it is in {log}.")
    return 1


def _write(log: Path, fault: Exception) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(traceback.format_exception(fault)))


def _tell(text: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        print(f"\n{text}", file=sys.stderr)


def _flush() -> None:
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
