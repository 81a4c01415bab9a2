"""Inspects processes from outside."""

import asyncio
from collections.abc import Callable
from pathlib import Path


async def eventually(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not. Linux only."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def processes_with(variable: str) -> dict[int, str]:
    """Command lines, by process id, of all processes that have this `NAME=value` in their environment. Linux only."""
    found: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0") and is_alive(int(folder.name)):
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found
