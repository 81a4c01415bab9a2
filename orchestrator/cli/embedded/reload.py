"""Reloading: when a Python file of the project changes, a worker with the new code replaces the one with the old code.

The new worker starts beside the old one. If it does not start, for example because of a definition fault, the old one
continues with the code that it was started with.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic

from watchfiles import Change, awatch  # pyright: ignore[reportUnknownVariableType]  # its types refer to trio

from orchestrator.cli.embedded.show import as_typed
from orchestrator.cli.embedded.stack import Stack, WorkerFailed

_IGNORED = frozenset({"__pycache__", "node_modules", "tests", "build", "dist"})
"""The folders whose files do not affect a worker. Folders whose names begin with a dot are ignored as well."""
_SETTINGS = "pyproject.toml"
_SUFFIX = ".py"
_SHOWN_FILES = 3


class Reloader:
    """Replaces the workers of a stack whenever the project's code changes.

    Args:
        stack: the running stack.
        folder: the project's folder.
    """

    def __init__(self, stack: Stack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder

    async def run(self) -> None:
        """Reload until cancelled."""
        changed: asyncio.Queue[Path] = asyncio.Queue()
        watching = asyncio.create_task(watch_code(self._folder, changed.put_nowait))
        try:
            while not watching.done():
                getting = asyncio.ensure_future(changed.get())
                await asyncio.wait([watching, getting], return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    getting.cancel()
                    break
                files = {getting.result()}
                while not changed.empty():
                    files.add(changed.get_nowait())
                await self._reload(sorted(files))
            await watching  # raises the error that ended it
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _reload(self, files: Sequence[Path]) -> None:
        show = self._stack.show
        names = ", ".join(as_typed(file) for file in files[:_SHOWN_FILES])
        more = " and others" if len(files) > _SHOWN_FILES else ""
        show.wait(f"{names}{more} changed: starting a worker with the new code ...")
        began = monotonic()
        try:
            worker = await self._stack.replace_workers()
        except WorkerFailed as fault:
            show.fault("The new code was not loaded:")
            show.plain(fault.log)
            kept = ", ".join(str(worker.pid) for worker in self._stack.workers)
            show.wait(f"Worker {kept} continues with the old code." if kept else "No worker runs. Correct the code.")
        else:
            show.good(f"Reloaded in {monotonic() - began:.1f} s: worker {worker.pid} takes work.")


async def watch_code(folder: Path, report: Callable[[Path], None]) -> None:
    """Report each Python file of a project that changes, and its `pyproject.toml`, until cancelled.

    Folders like virtual environments are not watched, because they have thousands of subfolders. So each folder of code
    is watched separately, and watching starts afresh when one is added or removed.
    """
    folders = _code_folders(folder)
    while True:
        try:
            async with asyncio.TaskGroup() as group:
                stop = asyncio.Event()
                group.create_task(_watch_top(folder, folders, report, stop))
                if folders:
                    group.create_task(_watch_folders(folders, report, stop))
        except* FileNotFoundError:
            pass  # a folder was removed before it could be watched
        before, folders = folders, _code_folders(folder)
        for added in sorted(set(folders) - set(before)):
            report(added)


async def _watch_top(
    folder: Path, folders: Sequence[Path], report: Callable[[Path], None], stop: asyncio.Event
) -> None:
    """Watch the project's folder without its subfolders. Stop when a folder of code is added or removed."""
    async for changes in awatch(folder, watch_filter=None, recursive=False, stop_event=stop):
        for _, path in sorted(changes):
            if path.endswith(_SUFFIX) or Path(path).name == _SETTINGS:
                report(Path(path))
        if _code_folders(folder) != folders:
            stop.set()


async def _watch_folders(folders: Sequence[Path], report: Callable[[Path], None], stop: asyncio.Event) -> None:
    async for changes in awatch(*folders, watch_filter=_is_code, stop_event=stop):
        for _, path in sorted(changes):
            report(Path(path))


def _is_code(_: Change, path: str) -> bool:
    return path.endswith(_SUFFIX) and _IGNORED.isdisjoint(Path(path).parts)


def _code_folders(folder: Path) -> list[Path]:
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.is_dir()
        and entry.name not in _IGNORED
        and not entry.name.startswith(".")
        and not (entry / "pyvenv.cfg").exists()
    )
