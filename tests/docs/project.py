"""A copy of the project as a reader has it, with a server and a worker once the document's files have been added."""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.devserver.server import EmbeddedServer
from tests.docs.markdown import ROOT, Command, Document

WORKER = ".venv/bin/python worker.py"
_COPIED = (
    "orchestrator",
    "events",
    "activities",
    "workflows",
    "migrations",
    "starter",
    "benchmarks",
    "tests",
    "pyproject.toml",
    "worker.py",
)
_TIMEOUT = 90.0


@dataclass(frozen=True, slots=True)
class Typed:
    """The exit code and output of a command."""

    exit_code: int
    output: str


@dataclass(frozen=True)
class Project:
    """A copy of the project."""

    folder: Path
    environment: dict[str, str]

    @classmethod
    def copied(cls, folder: Path, document: Document) -> "Project":
        """Copy the project and add the document's files, none of which may exist already."""
        folder.mkdir()
        for name in _COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, folder / name)
        (folder / ".venv").symlink_to(sys.prefix)
        for name, text in document.files.items():
            assert not (folder / name).exists(), f"{document.path} would overwrite {name}"
            (folder / name).write_text(text)
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("ORCHESTRATOR_", "TEMPORAL_"))
        }
        return cls(folder, {**inherited, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"})

    async def type(self, line: str, **environment: str) -> Typed:
        """Run a command in a shell."""
        process = await asyncio.create_subprocess_shell(
            line,
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(_TIMEOUT):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AssertionError(f"not finished within {_TIMEOUT:g} s: {line}") from None
        return Typed(process.returncode or 0, output.decode())

    @asynccontextmanager
    async def running(self, worker_command: str = WORKER) -> AsyncGenerator[None]:
        """Run a server and a worker on the copy's state, as `make up` does."""
        async with EmbeddedServer(self.folder / ".state", port=0, headless=True, in_memory=True) as server:
            self.environment["TEMPORAL_ADDRESS"] = server.address
            worker = await asyncio.create_subprocess_shell(
                f"exec env {worker_command}",
                cwd=self.folder,
                env=self.environment,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            try:
                await _ready(worker)
                yield
            finally:
                if worker.returncode is None:
                    worker.terminate()
                await worker.communicate()


async def _ready(worker: asyncio.subprocess.Process) -> None:
    assert worker.stdout is not None
    output = b""
    async with asyncio.timeout(_TIMEOUT):
        while b"Ctrl-C drains" not in output:
            line = await worker.stdout.readline()
            assert line, f"the worker ended: {output.decode()}"
            output += line


def missing_from(output: str, command: Command) -> str | None:
    """Return the first shown line that the output lacks, or None. Spaces do not count, and `…` matches anything."""
    lines = [" ".join(line.split()) for line in output.splitlines()]
    for shown in command.shown:
        pattern = re.escape(" ".join(shown.split())).replace("…", ".*")
        while lines and not re.fullmatch(pattern, lines[0]):
            lines.pop(0)
        if not lines:
            return shown
        lines.pop(0)
    return None


def expected_exit(command: Command) -> int:
    """Return 1 if the command shows a failed saga or a rejected event, otherwise 0."""
    return 1 if any(line.startswith(("failed ", "rejected ")) for line in command.shown) else 0


async def check_commands(project: Project, commands: list[Command]) -> list[str]:
    """Run each command and return those whose output or exit code differs from what is shown."""
    wrong: list[str] = []
    for command in commands:
        typed = await project.type(command.line)
        if typed.exit_code != expected_exit(command):
            wrong.append(f"$ {command.line}\nexit code {typed.exit_code}\n{typed.output}")
        elif (missing := missing_from(typed.output, command)) is not None:
            wrong.append(f"$ {command.line}\nnot in the output: {missing}\n{typed.output}")
    return wrong
