"""What a person sees of a script: a line for each step, with the time since the start; colours on a terminal only."""

import sys
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PLAIN_WIDTH = 140
"""Where the output is no terminal, nobody says how wide it is."""

_WIDE = 110


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

    @property
    def is_wide(self) -> bool:
        """Whether a table may have a column more."""
        return self._console.width >= _WIDE

    @property
    def has_lost_its_terminal(self) -> bool:
        """Whether the window was closed; not everybody who ran us passes that on as a signal."""
        return self.is_terminal and not sys.stdout.isatty()

    def table(
        self, *columns: str, rows: list[tuple[str, ...]], right: tuple[str, ...] = (), least: int | None = None
    ) -> None:
        """A table.

        Args:
            columns: their headings; the first holds names to copy, and is never broken.
            rows: a text for each column.
            right: which columns are flush right.
            least: how narrow the last column may get.
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
    """A path as it is shortest to type here."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
