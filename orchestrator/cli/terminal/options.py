"""Options and arguments that several commands share."""

import math
import sys
from typing import Annotated

import typer

LONGEST = 31_536_000
"""The longest time that a command can wait, in seconds: a year."""


def finite(seconds: float | None) -> float | None:
    """Return a number of seconds after checking that it is finite.

    Raises:
        typer.BadParameter: it is infinite or not a number.
    """
    if seconds is not None and not math.isfinite(seconds):
        raise typer.BadParameter(f"{seconds} is not a number of seconds to wait. Give a number such as 30 or 0.5")
    return seconds


def read_stdin(limit: int = -1) -> bytes:
    """Read stdin, at most `limit` bytes of it.

    Raises:
        typer.BadParameter: stdin cannot be read, for example because it is a folder.
    """
    try:
        return sys.stdin.buffer.read(limit)
    except OSError as fault:
        raise typer.BadParameter(f"stdin cannot be read: {fault.strerror or fault}") from fault


EventId = Annotated[str, typer.Argument(metavar="EVENT_ID", help="The event's id, as `publish` printed it.")]
OrchestratorName = Annotated[
    str | None,
    typer.Option(
        "--orchestrator",
        metavar="NAME",
        help="The orchestrator whose saga to act on. Needed only if the event has several open sagas.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Whether to wait for the outcome.")]
WaitSeconds = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0,
        max=LONGEST,
        callback=finite,
        help="How long to wait for the outcome. After that the exit code is 4, and the saga continues.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print a single JSON document to stdout and nothing else.")]
