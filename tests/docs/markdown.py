"""Reading the project's documents: code blocks with their names, commands with what they show, links, tables."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""

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
    """The file it is, when its name stands above it in bold."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command as it is typed, and the lines shown below it; `…` stands for anything."""

    line: str
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """One Markdown file of the checkout."""

    path: str

    @cached_property
    def text(self) -> str:
        """All of it."""
        return (ROOT / self.path).read_text()

    @cached_property
    def prose(self) -> str:
        """What is left without the blocks."""
        return _FENCE.sub("", self.text)

    @cached_property
    def blocks(self) -> list[Block]:
        """Fenced blocks, in order."""
        found: list[Block] = []
        for match in _FENCE.finditer(self.text):
            before = self.text[: match.start()]
            name = _FILE_NAME.search(before)
            found.append(Block(match.group(1), match.group(2), before.count("\n") + 1, name.group(1) if name else None))
        return found

    def of(self, language: str) -> list[Block]:
        """Blocks of one language."""
        return [block for block in self.blocks if block.language == language]

    @cached_property
    def files(self) -> dict[str, str]:
        """The files that a reader is to copy, by path."""
        return {block.path: block.text for block in self.blocks if block.path is not None}

    @cached_property
    def commands(self) -> list[Command]:
        """What is to be typed, in order."""
        found: list[Command] = []
        for block in self.of("console"):
            for part in re.split(r"^\$ ", block.text, flags=re.M)[1:]:
                line, *shown = part.splitlines()
                found.append(Command(line, tuple(shown)))
        return found

    @cached_property
    def links(self) -> list[str]:
        """Where its links lead."""
        return _LINK.findall(self.prose)

    def table(self, first_header: str) -> list[list[str]]:
        """The rows of the table whose first column has this name."""
        rows: list[list[str]] = []
        for line in self.text.partition(f"\n| {first_header} |")[2].splitlines()[1:]:
            if not line.startswith("|"):
                break
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))])
        return [row for row in rows if not set("".join(row)) <= {"-", ":", " "}]

    def headings(self) -> Iterator[str]:
        """The text of each heading."""
        for match in re.finditer(r"^#+ (.+)$", self.prose, re.M):
            yield match.group(1)


def code_in(text: str) -> list[str]:
    """What stands between backticks."""
    return _CODE.findall(text)


def every_document() -> list[str]:
    """Each Markdown file of the project."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in found)
