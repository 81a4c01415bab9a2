"""Standard streams that may be closed, full, or read by nobody, as after `>&-`, `> /dev/full` or `| head`."""

import io
import os
import sys
from contextlib import suppress
from typing import TextIO


def open_standard_streams() -> None:
    """Open whichever standard stream is closed on the null device, and let any text be written to the others.

    Otherwise the next file that is opened, a database perhaps, would be the one that everything is printed to.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def write_line(text: str, *, to_stderr: bool = False) -> None:
    """Write a line; if nobody can have it, the work goes on without."""
    stream = sys.stderr if to_stderr else sys.stdout
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError):
        silence(stream)


def silence(stream: TextIO) -> None:
    """Send what is still buffered, and all that is written from now on, to the null device."""
    with suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
        stream.flush()
