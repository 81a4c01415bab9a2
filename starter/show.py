"""What a person sees of a script: a line for each step, with the time since the start; colours on a terminal only."""

import sys
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PLAIN_WIDTH = 130
"""Where the output is no terminal, nobody says how wide it is."""


class Show:
    """Prints to standard output, at once."""

    def __init__(self) -> None:
        if callable(reconfigure := getattr(sys.stdout, "reconfigure", None)):
            reconfigure(errors="replace")  # no demo ends because an old terminal lacks a currency's sign
        self._console = Console(highlight=False, emoji=False)
        self.is_terminal = self._console.is_terminal
        if not self.is_terminal:
            self._console = Console(highlight=False, emoji=False, width=_PLAIN_WIDTH)
        self._began = monotonic()

    def step(self, text: str, *, style: str = "") -> None:
        """One thing that was done, or that is about to be."""
        self._line(Text.assemble((f"{monotonic() - self._began:5.1f} s  ", "dim"), (text, style)))

    def good(self, text: str) -> None:
        """A step that is what this is all about."""
        self.step(text, style="green")

    def wait(self, text: str) -> None:
        """Something goes on that takes a while."""
        self.step(text, style="yellow")

    def plain(self, text: str = "") -> None:
        """A line as it is, to be copied, never wrapped."""
        self._line(Text(text))

    def heading(self, text: str) -> None:
        """What the following lines are."""
        self.plain()
        self._line(Text(text, "bold"))

    def table(self, *columns: str, rows: list[tuple[str, ...]], right: tuple[str, ...] = ()) -> None:
        """A table; `right` names the columns that are flush right."""
        table = Table(box=None, header_style="dim", pad_edge=True)
        for column in columns:
            table.add_column(column, justify="right" if column in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._console.print(table)

    def _line(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)


def as_typed(path: Path) -> str:
    """A path as it is shortest to type here."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
