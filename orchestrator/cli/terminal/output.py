"""Prints answers to stdout and remarks to stderr; with `--json`, stdout gets a single JSON document and nothing else.

A terminal gets colours and its own width. Anything else gets plain text without wrapping, so that ids stay whole.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.telemetry.streams import silence

_NO_WRAPPING = 10_000
"""The console's width where lines must not wrap."""
STYLES = {
    "completed": "green",
    "done": "green",
    "failed": "red",
    "cancelled": "yellow",
    "refused": "red",
    "undoing": "yellow",
    "undone": "yellow",
    "skipped": "yellow",
    "stuck": "bold red",
    "accepted": "cyan",
    "started": "cyan",
    "forward": "cyan",
    "running": "cyan",
    "waiting": "cyan",
}


@dataclass(frozen=True, slots=True)
class Output:
    """Prints what a command reports."""

    as_json: bool = False

    def document(self, value: object) -> None:
        """Print the single JSON document."""
        self.raw(json_text(value, indent=2))

    def raw(self, text: str) -> None:
        """Print text to stdout as it is, followed by a line break, for a program to read."""
        _write(f"{text}\n", sys.stdout)

    def content(self, content: bytes) -> None:
        """Write bytes to stdout as they are."""
        try:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        except OSError as fault:
            _lose(fault, sys.stdout)

    def line(self, text: str = "", *, style: str | None = None) -> None:
        """Print a line of the answer. With `--json` it goes to stderr instead."""
        _print(Text(printable(text), style=style or ""), to_stderr=self.as_json)

    def state(self, state: str, text: str, *, indent: int = 0, width: int = 9) -> None:
        """Print a line that begins with a coloured state."""
        line = Text(" " * indent)
        line.append(f"{printable(state):<{width}} ", style=STYLES.get(state, ""))
        line.append(printable(text))
        _print(line, to_stderr=self.as_json)

    def remark(self, text: str) -> None:
        """Print a sentence that is not part of the answer to stderr."""
        _print(Text(printable(text[:1].upper() + text[1:]), style="yellow"), to_stderr=True)

    def question(self, text: str) -> None:
        """Print a question to stderr without a line break, so that the user answers on the same line."""
        _write(text, sys.stderr)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows under headings. The first column is never cut or wrapped."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, no_wrap=number == 0, overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell), style=STYLES.get(cell, "")) for cell in row))
        _print(table, to_stderr=self.as_json)


def json_text(value: object, *, indent: int | None = None) -> str:
    """Return JSON that stdout can encode. Unless stdout is UTF-8, characters outside ASCII are escaped."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return json.dumps(value, indent=indent, ensure_ascii=encoding != "utf8")


def print_error(text: str) -> None:
    """Print to stderr what went wrong."""
    _print(Text(printable(text), style="red"), to_stderr=True)


def printable(text: str) -> str:
    """Replace control characters, because an escape sequence in a stored message must not control the terminal."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)


def is_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return sys.stdout.isatty()


def age_text(moment: datetime, now: datetime | None = None) -> str:
    """Return how long ago a moment was, in one unit: `12 s`, `3 min`, `2 h`, `5 d`."""
    return duration_text((now or datetime.now(UTC)) - moment)


def duration_text(duration: timedelta) -> str:
    """Return a duration in one unit, such as `12 s`."""
    seconds = max(0, int(duration.total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def moment_json(moment: datetime | None) -> str | None:
    """Return a time in RFC 3339, for programs."""
    return None if moment is None else moment.isoformat()


def _print(renderable: Any, *, to_stderr: bool) -> None:
    stream = sys.stderr if to_stderr else sys.stdout
    if stream.isatty():
        try:
            Console(file=stream, highlight=False).print(renderable, soft_wrap=isinstance(renderable, Text))
        except OSError as fault:
            _lose(fault, stream)
        return
    # Rich prints to a buffer, because a console writes to its stream even while it captures. An error such as a full
    # disk would then occur outside of `_write`.
    buffer = StringIO()
    console = Console(file=buffer, highlight=False, width=_NO_WRAPPING, no_color=True, force_terminal=False)
    console.print(renderable, soft_wrap=isinstance(renderable, Text))
    _write("".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines() or [""]), stream)


def _write(text: str, stream: TextIO) -> None:
    try:
        stream.write(text)
        stream.flush()
    except OSError as fault:
        _lose(fault, stream)


def _lose(fault: OSError, stream: TextIO) -> None:
    """Stop writing to a stream that fails, because the command must do its work even if its output is not read.

    A pipe that its reader closes early, as `head` does, is not an error, so the exit code still reports how the saga
    ended.
    """
    silence(stream)
    if stream is sys.stdout and not isinstance(fault, BrokenPipeError):
        _stdout_faults.append(fault)


def lost_answer() -> OSError | None:
    """Return why the answer could not be written to stdout completely, or None if it was."""
    return _stdout_faults[0] if _stdout_faults else None


_stdout_faults: list[OSError] = []
