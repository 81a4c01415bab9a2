"""Runs a script that starts other processes: handles Ctrl-C, SIGTERM and errors, and exits with a code."""

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
"""Added to a signal's number to get the exit code, as shells do."""


class GaveUp(Exception):
    """The script cannot continue. The message is printed without a traceback."""


def settings_or_exit(**values: Any) -> Settings:
    """Return the settings with these values. If a setting is invalid, exit with a message and a code."""
    try:
        return Settings(**values)
    except InvalidSettings as fault:
        _print_error(str(fault))
        sys.exit(exit_code_of(fault))


def exit_code_of(fault: OrchestratorError) -> int:
    """Return the exit code that the command line uses for the same error, or 1 if it does not know the error."""
    expected = describe_failure(fault)
    return Exit.FAILED if expected is None else expected.exit


def run_script(main: Callable[[], Coroutine[Any, Any, int]], *, log: Path) -> NoReturn:
    """Run `main` and exit this process with its exit code.

    The first Ctrl-C, SIGTERM or hang-up cancels `main`, so that it can stop the processes that it has started. The
    second ends this process and its children immediately.

    Args:
        main: the script, which returns the exit code.
        log: the file for the traceback of an unexpected error.
    """
    code = 1
    try:
        code = asyncio.run(_stoppable(main, log))
        _flush()
    finally:
        # Not `sys.exit`, because the Temporal SDK's threads may still call into the interpreter while it shuts down.
        # The process would then abort with "Fatal Python error: PyGILState_Release" after all the work is done.
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
        # A signal that is ignored stays ignored, as under `nohup`, and as Ctrl-C is for a background job.
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        return _STOPPED + (received[0] if received else signal.SIGTERM)
    except BrokenPipeError:
        pass  # The reader of our output has closed it.
    except OrchestratorError as fault:
        _print_error(str(fault))
        return exit_code_of(fault)
    except GaveUp as fault:
        _print_error(str(fault))
    except Exception as fault:
        _write(log, fault)
        _print_error(f"Unexpected error: {type(fault).__name__}: {fault}. The traceback is in {log}.")
    return 1


def _write(log: Path, fault: Exception) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(traceback.format_exception(fault)))


def _print_error(text: str) -> None:
    with suppress(OSError):  # The terminal may be closed.
        print(f"\n{text}", file=sys.stderr)


def _flush() -> None:
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
