"""Where words go: answers on stdout, remarks on stderr; with `--json` one document on stdout and nothing else there.

On a terminal with colours and in its width; otherwise plain and as wide as it takes, so that ids stay whole.
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

_WIDE = 10_000
_STYLES = {
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
    "forward": "cyan",
    "running": "cyan",
    "waiting": "cyan",
}


@dataclass(frozen=True, slots=True)
class Output:
    """A command's voice."""

    as_json: bool = False

    def document(self, value: object) -> None:
        """The one JSON document."""
        self.raw(json_text(value, indent=2))

    def raw(self, text: str) -> None:
        """A line of the answer for a program, without any form."""
        _write(f"{text}\n", sys.stdout)

    def content(self, content: bytes) -> None:
        """Bytes as they are, and nothing else."""
        try:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        except OSError as fault:
            _lose(fault, sys.stdout)

    def say(self, text: str = "", *, style: str | None = None) -> None:
        """A line of the answer; with `--json` it goes to stderr, for whoever watches."""
        _print(Text(printable(text), style=style or ""), to_stderr=self.as_json)

    def state(self, state: str, text: str, *, indent: int = 0, width: int = 9) -> None:
        """A line that begins with a state, coloured."""
        line = Text(" " * indent)
        line.append(f"{printable(state):<{width}} ", style=_STYLES.get(state, ""))
        line.append(printable(text))
        _print(line, to_stderr=self.as_json)

    def remark(self, text: str) -> None:
        """A sentence beside the answer, on stderr."""
        _print(Text(printable(text[:1].upper() + text[1:]), style="yellow"), to_stderr=True)

    def question(self, text: str) -> None:
        """What a person is to answer, on stderr, the answer behind it."""
        _write(text, sys.stderr)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows under headings; the first column is never cut or wrapped."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, no_wrap=number == 0, overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell), style=_STYLES.get(cell, "")) for cell in row))
        _print(table, to_stderr=self.as_json)


def json_text(value: object, *, indent: int | None = None) -> str:
    """JSON that stdout can hold: a character that its encoding does not have is escaped as JSON does."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return json.dumps(value, indent=indent, ensure_ascii=encoding != "utf8")


def sentence(text: str) -> None:
    """What went wrong, on stderr."""
    _print(Text(printable(text), style="red"), to_stderr=True)


def printable(text: str) -> str:
    """Text that a terminal only shows: an escape sequence in somebody's message must not act on it."""
    return "".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in text)


def is_terminal() -> bool:
    """Whether a person looks at stdout."""
    return sys.stdout.isatty()


def ago(moment: datetime, now: datetime | None = None) -> str:
    """How long ago, in one unit: `12 s`, `3 min`, `2 h`, `5 d`."""
    return lasting((now or datetime.now(UTC)) - moment)


def lasting(span: timedelta) -> str:
    """A time span in one unit."""
    seconds = max(0, int(span.total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def moment_json(moment: datetime | None) -> str | None:
    """RFC 3339, for programs."""
    return None if moment is None else moment.isoformat()


def _print(what: Any, *, to_stderr: bool) -> None:
    stream = sys.stderr if to_stderr else sys.stdout
    if stream.isatty():
        try:
            Console(file=stream, highlight=False).print(what, soft_wrap=isinstance(what, Text))
        except OSError as fault:
            _lose(fault, stream)
        return
    # Not with the stream's own console: that writes to it even while it is captured, and a full disk is met there.
    printed = StringIO()
    console = Console(file=printed, highlight=False, width=_WIDE, no_color=True, force_terminal=False)
    console.print(what, soft_wrap=isinstance(what, Text))
    _write("".join(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines() or [""]), stream)


def _write(text: str, stream: TextIO) -> None:
    try:
        stream.write(text)
        stream.flush()
    except OSError as fault:
        _lose(fault, stream)


def _lose(fault: OSError, stream: TextIO) -> None:
    """Go on without a stream that takes nothing: what the command does must not depend on who reads about it.

    A pipe whose reader has read enough, as `head` does, is no fault: the exit code says what became of the saga.
    """
    silence(stream)
    if stream is sys.stdout and not isinstance(fault, BrokenPipeError):
        _lost.append(fault)


def lost_answer() -> OSError | None:
    """Why the answer, or a part of it, could not be written to stdout; None if it was."""
    return _lost[0] if _lost else None


_lost: list[OSError] = []
