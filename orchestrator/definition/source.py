"""Where something is defined, for the messages of definition faults."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
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
            code = getattr(innermost, "__code__", None)
            line = code.co_firstlineno if code is not None else inspect.getsourcelines(innermost)[1]
        except (TypeError, OSError):
            return cls("?", 0)
        return cls(file, line)

    def problem(self, text: str) -> Problem:
        """Return a definition fault at this place. A file below the current directory is shown relative to it."""
        path = Path(self.file)
        here = Path.cwd()
        shown = path.relative_to(here) if path.is_relative_to(here) else path
        return Problem(str(shown), self.line, text)
