"""Reads the project's documents: code blocks with file names, commands with their output, links and tables."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The project's root folder."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_FILE_NAME = re.compile(r"\*\*`([\w./-]+)`\*\*\n\n\Z")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block."""

    language: str
    text: str
    line: int
    path: str | None
    """The name of the file that the block contains, if it is above the block in bold."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command and the output shown below it, in which `…` matches anything."""

    line: str
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """One of the project's Markdown files."""

    path: str

    @cached_property
    def text(self) -> str:
        """The whole text."""
        return (ROOT / self.path).read_text()

    @cached_property
    def prose(self) -> str:
        """The text without the code blocks."""
        return _FENCE.sub("", self.text)

    @cached_property
    def blocks(self) -> list[Block]:
        """Fenced blocks, in order."""
        blocks: list[Block] = []
        for match in _FENCE.finditer(self.text):
            before = self.text[: match.start()]
            name = _FILE_NAME.search(before)
            path = name.group(1) if name else None
            blocks.append(Block(match.group(1), match.group(2), before.count("\n") + 1, path))
        return blocks

    def of(self, language: str) -> list[Block]:
        """The blocks of one language."""
        return [block for block in self.blocks if block.language == language]

    @cached_property
    def files(self) -> dict[str, str]:
        """The files that a reader is asked to copy, by path."""
        return {block.path: block.text for block in self.blocks if block.path is not None}

    @cached_property
    def commands(self) -> list[Command]:
        """The commands that a reader is asked to run, in order."""
        commands: list[Command] = []
        for block in self.of("console"):
            for part in re.split(r"^\$ ", block.text, flags=re.M)[1:]:
                line, *shown = part.splitlines()
                commands.append(Command(line, tuple(shown)))
        return commands

    @cached_property
    def links(self) -> list[str]:
        """The targets of all links."""
        return _LINK.findall(self.prose)

    def table(self, first_header: str) -> list[list[str]]:
        """The rows of the first table whose first column has this name."""
        tables = self.tables(first_header)
        return tables[0] if tables else []

    def tables(self, first_header: str) -> list[list[list[str]]]:
        """The rows of each table whose first column has this name."""
        return [_rows(text) for text in self.text.split(f"\n| {first_header} |")[1:]]

    def headings(self) -> Iterator[str]:
        """The text of each heading."""
        for match in re.finditer(r"^#+ (.+)$", self.prose, re.M):
            yield match.group(1)


def _rows(table: str) -> list[list[str]]:
    """Split the rows of a table, whose first line is the rest of its header."""
    rows: list[list[str]] = []
    for line in table.splitlines()[1:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))])
    return [row for row in rows if not set("".join(row)) <= {"-", ":", " "}]


def code_in(text: str) -> list[str]:
    """Return the texts between backticks."""
    return _CODE.findall(text)


def every_document() -> list[str]:
    """Return the path of each Markdown file of the project."""
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in files)
