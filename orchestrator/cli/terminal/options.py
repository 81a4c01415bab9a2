"""Options and arguments that several commands take."""

import math
import sys
from typing import Annotated

import typer

LONGEST = 31_536_000
"""Seconds that can be waited: a year."""


def finite(seconds: float | None) -> float | None:
    """A number of seconds that can be waited.

    Raises:
        typer.BadParameter: it is none.
    """
    if seconds is not None and not math.isfinite(seconds):
        raise typer.BadParameter("takes a number of seconds, such as 30 or 0.5")
    return seconds


def read_stdin(limit: int = -1) -> bytes:
    """What is given on stdin, up to a limit.

    Raises:
        typer.BadParameter: it cannot be read, because it is a folder for instance.
    """
    try:
        return sys.stdin.buffer.read(limit)
    except OSError as fault:
        raise typer.BadParameter(f"stdin cannot be read: {fault.strerror or fault}") from fault


EventId = Annotated[str, typer.Argument(metavar="EVENT_ID", help="As `publish` printed it.")]
OrchestratorName = Annotated[
    str | None,
    typer.Option("--orchestrator", metavar="NAME", help="Whose saga, if several orchestrators have this event."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Whether to wait for the outcome.")]
WaitSeconds = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0,
        max=LONGEST,
        callback=finite,
        help="How long to wait at most; then exit code 4. The saga goes on.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")]
