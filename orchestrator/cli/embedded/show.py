"""Prints the progress of a script: a line for each step with the time since the start, and tables."""

import sys
from datetime import datetime
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.terminal.output import STYLES, printable

_PLAIN_WIDTH = 140
"""The width of the output if it is not a terminal."""

_WIDE = 110


class Show:
    """Prints to standard output, with colours if it is a terminal."""

    def __init__(self) -> None:
        if callable(reconfigure := getattr(sys.stdout, "reconfigure", None)):
            reconfigure(errors="replace")  # An old terminal may lack a currency's sign.
        self._console = Console(highlight=False, emoji=False)
        self.is_terminal = self._console.is_terminal
        if not self.is_terminal:
            self._console = Console(highlight=False, emoji=False, width=_PLAIN_WIDTH)
        self._began = monotonic()

    def step(self, text: str, *, style: str = "") -> None:
        """Print a step that was done or is about to start."""
        self._line(Text.assemble((f"{monotonic() - self._began:5.1f} s  ", "dim"), (text, style)))

    def good(self, text: str) -> None:
        """Print a step that succeeded."""
        self.step(text, style="green")

    def wait(self, text: str) -> None:
        """Print a step that takes a while."""
        self.step(text, style="yellow")

    def fault(self, text: str) -> None:
        """Print what failed."""
        self.step(text, style="red")

    def state(self, at: datetime, state: str, text: str) -> None:
        """Print the time of day, a coloured state, and the thing that is in this state."""
        clock = f"{at.astimezone():%H:%M:%S}  "
        self._line(Text.assemble((clock, "dim"), (f"{state:<9} ", STYLES.get(state, "")), printable(text)))

    def quiet(self, text: str) -> None:
        """Print a line of another process's output."""
        self._line(Text(printable(text), "dim"))

    def plain(self, text: str = "") -> None:
        """Print a line unchanged and unwrapped, so that it can be copied."""
        self._line(Text(text))

    def heading(self, text: str) -> None:
        """Print a heading for the following lines."""
        self.plain()
        self._line(Text(text, "bold"))

    @property
    def is_wide(self) -> bool:
        """Whether the output is wide enough for an additional column in a table."""
        return self._console.width >= _WIDE

    @property
    def has_lost_its_terminal(self) -> bool:
        """Whether the terminal was closed. Not every parent process reports that with a signal."""
        return self.is_terminal and not sys.stdout.isatty()

    def table(
        self, *columns: str, rows: list[tuple[str, ...]], right: tuple[str, ...] = (), least: int | None = None
    ) -> None:
        """Print a table.

        Args:
            columns: the headings. The first column contains names to copy and is never wrapped.
            rows: the rows, with one text per column.
            right: the columns that are right-aligned.
            least: the smallest width of the last column.
        """
        table = Table(box=None, header_style="dim", pad_edge=True)
        for number, column in enumerate(columns):
            table.add_column(
                column,
                justify="right" if column in right else "left",
                no_wrap=number == 0,
                min_width=least if number == len(columns) - 1 else None,
            )
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._console.print(table)

    def _line(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)


def as_typed(path: Path) -> str:
    """Return the shortest form of a path in the current folder."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
