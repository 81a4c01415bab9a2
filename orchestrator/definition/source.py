"""Where something is defined, for the messages of definition faults."""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.errors import Problem


@dataclass(frozen=True, slots=True)
class Source:
    """The file and line of a definition."""

    file: str
    line: int

    @classmethod
    def of(cls, body: Any) -> Source:
        """Return where a function or a class is defined; `?:0` if that is unknown."""
        try:
            innermost = inspect.unwrap(body)
            file = inspect.getsourcefile(innermost) or "?"
        except (TypeError, OSError):
            return cls("?", 0)
        if isinstance(innermost, type):
            return cls(file, _lines_of_classes(file).get(innermost.__qualname__, 0))
        code = getattr(innermost, "__code__", None)
        return cls("?", 0) if code is None else cls(file, code.co_firstlineno)

    def problem(self, text: str) -> Problem:
        """Return a definition fault at this place. A file below the current directory is shown relative to it."""
        path = Path(self.file)
        here = Path.cwd()
        shown = path.relative_to(here) if path.is_relative_to(here) else path
        return Problem(str(shown), self.line, text)

    def __str__(self) -> str:
        return self.problem("").location


@cache
def _lines_of_classes(file: str) -> Mapping[str, int]:
    """Return the first line of each class in a file, by qualified name.

    `inspect.getsourcelines` parses the file again for each class. A check of an application asks for hundreds.
    """
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return {}
    lines: dict[str, int] = {}
    for name, line in _classes_in(tree, ""):
        lines.setdefault(name, line)
    return lines


def _classes_in(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.ClassDef():
                first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
                yield f"{prefix}{child.name}", first
                yield from _classes_in(child, f"{prefix}{child.name}.")
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from _classes_in(child, f"{prefix}{child.name}.<locals>.")
            case _:
                yield from _classes_in(child, prefix)
