"""Runs a command as a person does: in its own process, with its own environment."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.cli.forkserver import forked_program

ROOT = Path(__file__).parents[2]
SCRIPT = Path(sys.executable).with_name("orchestrator")
_TIMEOUT = 60


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The whole of stdout as one JSON document."""
        return json.loads(self.out)

    def __str__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


@dataclass(frozen=True)
class Shell:
    """Starts commands in one environment."""

    variables: Mapping[str, str]
    """Settings; of the tests' own environment a command gets everything but settings."""
    folder: Path = ROOT

    def at(self, **variables: str) -> "Shell":
        """Return this shell with some settings changed."""
        return replace(self, variables={**self.variables, **variables})

    async def start(self, *arguments: str, program: tuple[str, ...] | None = None, stdin: int = PIPE) -> Process:
        """Start a command or another program; `stdin` may be a terminal's file descriptor."""
        program = program or (*forked_program(), str(SCRIPT))
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("ORCHESTRATOR_", "TEMPORAL_"))
        }
        return await asyncio.create_subprocess_exec(
            *program,
            *arguments,
            stdin=stdin,
            stdout=PIPE,
            stderr=PIPE,
            cwd=self.folder,
            env={**inherited, **self.variables},
        )

    async def run(self, *arguments: str, stdin: str | bytes = b"") -> Ran:
        """Run a command to its end."""
        process = await self.start(*arguments)
        content = stdin.encode() if isinstance(stdin, str) else stdin
        return await ended(process, content)


async def ended(process: Process, stdin: bytes = b"", *, seconds: float = _TIMEOUT) -> Ran:
    """Wait until a command has ended, and return its result."""
    try:
        async with asyncio.timeout(seconds):
            out, err = await process.communicate(stdin if process.stdin else None)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())
