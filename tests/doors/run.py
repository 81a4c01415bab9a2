"""`make doors`: events, repeats and garbage in any order through all doors at once, and a count of what became of each.

Starts and stops what it needs. Exit code 0 only if each good event finished once, each bad one is a dead letter with
its reason, and nothing is wedged.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Literal

from rich.console import Console
from rich.table import Table
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from orchestrator.client import EventBus
from orchestrator.devserver.child import Child
from orchestrator.devserver.ports import free_port
from orchestrator.devserver.server import NAMESPACE, EmbeddedServer
from orchestrator.store.core.database import Database
from orchestrator.store.migrations.migrate import migrate
from starter.process import GaveUp, run_script
from tests.chaos.postgres import Postgres
from tests.doors.audit import Findings
from tests.doors.crowd import Crowd
from tests.doors.house import CATALOG
from tests.doors.marks import tables
from tests.doors.plan import Plan, plan
from tests.doors.senders import Senders

_QUEUE = "doors"
_ROOT = Path(__file__).parents[2]
_READY = b"Worker ready"
_DRAIN = 30.0
_SHOWN = 15


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is asked for."""

    events: int
    seed: int
    database: Literal["postgresql", "sqlite"]
    processes: int
    keep: bool

    @classmethod
    def read(cls, arguments: Sequence[str]) -> "Options":
        """From the command line."""
        parser = argparse.ArgumentParser(prog="make doors", description=__doc__)
        parser.add_argument("--events", type=int, default=5000, help="how many, repeats and garbage too (%(default)s)")
        parser.add_argument("--seed", type=int, default=1, help="decides all of them (%(default)s)")
        parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
        parser.add_argument("--processes", type=int, default=1, help="worker processes (%(default)s)")
        parser.add_argument("--keep", action="store_true", help="keep databases and logs, whatever the end")
        return cls(**vars(parser.parse_args(arguments)))


@asynccontextmanager
async def _everything(options: Options, folder: Path) -> AsyncGenerator[tuple[EmbeddedServer, Database]]:
    """Temporal on its database file with its Web UI, the database, the worker's process."""
    server = EmbeddedServer(folder / "temporal", port=free_port(0), ui_port=free_port(0))
    postgres = Postgres(folder / "postgres") if options.database == "postgresql" else None
    database: Database | None = None
    worker: Child | None = None
    try:
        if postgres is not None:
            await postgres.start()
        await server.start()
        url = postgres.url if postgres is not None else f"sqlite:///{folder / 'doors.db'}"
        database = Database(url, pool_size=5)
        await migrate(database, application=tables)
        worker = await _worker(options, folder, server.address, url)
        yield server, database
    finally:
        if worker is not None:
            await worker.stop(seconds=_DRAIN)
        if database is not None:
            await database.close()
        await server.stop()
        if postgres is not None:
            await postgres.close()


async def _worker(options: Options, folder: Path, address: str, url: str) -> Child:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TEMPORAL_", "ORCHESTRATOR_"))}
    environment = kept | {
        "TEMPORAL_ADDRESS": address,
        "TEMPORAL_NAMESPACE": NAMESPACE,
        "TEMPORAL_CONFIG_FILE": os.devnull,
        "ORCHESTRATOR_STATE_DIR": str(folder),
        "ORCHESTRATOR_DATABASE_URL": url,
        "ORCHESTRATOR_TASK_QUEUE": _QUEUE,
        "ORCHESTRATOR_LOG_LEVEL": "ERROR",
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "tests.doors.worker", "--processes", str(options.processes)]
    worker = Child.start(command, log=folder / "worker.log", env=environment, cwd=_ROOT)
    if not await worker.wait_until(lambda: worker.log.read_bytes().count(_READY) >= options.processes):
        raise GaveUp(f"The worker did not start:\n{worker.last_lines()}")
    return worker


def _show(console: Console, made: Plan, found: Findings) -> None:
    table = Table("door", "messages", "of them bad")
    bad = Counter(one.door for one in made.bad)
    for door, count in made.by_door().items():
        table.add_row(door, str(count), str(bad[door]))
    console.print(table)
    kinds = Counter(one.kind for one in made.bad)
    console.print(f"{len(kinds)} kinds of garbage: " + ", ".join(f"{kind} {count}" for kind, count in kinds.items()))
    again = sum(one.attempts > 1 for one in made.sendings)
    if again:
        console.print(f"{again} messages had to be sent again; {found.twice} of those came twice", highlight=False)
    for name in ("lost", "doubled", "wedged", "wrong"):
        faults: list[str] = getattr(found, name)
        for fault in faults[:_SHOWN]:
            console.print(f"{name}: {fault}", style="red", markup=False, highlight=False)
        if len(faults) > _SHOWN:
            console.print(f"{name}: {len(faults) - _SHOWN} more", style="red", highlight=False)


async def _run(options: Options, folder: Path, console: Console) -> int:
    began = monotonic()

    def say(text: str) -> None:
        console.print(f"{monotonic() - began:6.1f} s  {text}", highlight=False, markup=False)

    made = plan(seed=options.seed, events=options.events)
    async with _everything(options, folder) as (server, database):
        client = await Client.connect(server.address, data_converter=pydantic_data_converter)
        bus = EventBus(client, CATALOG, task_queue=_QUEUE, source="doors")
        keeping = EventBus(client, CATALOG, task_queue=_QUEUE, source="doors", database=database)
        senders = Senders(client, bus, keeping, database, task_queue=_QUEUE, ui_url=server.ui_url)
        began = monotonic()
        say(f"{len(made.sendings)} messages: {len(made.good)} good events, {len(made.bad)} bad ones, and repeats")
        found = await Crowd(made, senders, client, database, task_queue=_QUEUE, say=say).go()
    _show(console, made, found)
    letters = sum(len(one.kept) for one in made.bad)
    console.print(
        f"finished once {found.finished} of {len(made.good)}, dead letters {found.kept} of {letters}, in "
        f"{monotonic() - began:.0f} s",
        highlight=False,
    )
    console.print(
        f"lost {len(found.lost)}, doubled {len(found.doubled)}, wedged {len(found.wedged)}, wrong {len(found.wrong)}",
        highlight=False,
    )
    return 0 if found.is_clean else 1


async def main(options: Options, folder: Path) -> int:
    """The whole run; what it leaves behind stays only if something is wrong."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    code = 1
    try:
        code = await _run(options, folder, console)
    finally:
        if code or options.keep:
            print(f"Databases and logs are in {folder}", file=sys.stderr)
        else:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    _options = Options.read(sys.argv[1:])
    _folder = Path(tempfile.mkdtemp(prefix="doors-"))
    run_script(lambda: main(_options, _folder), log=_folder / "fault.txt")
