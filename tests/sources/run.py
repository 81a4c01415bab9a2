"""`make sources`: sends events, repeats and garbage through all sources at once, shuffled, and checks the result.

It starts and stops what it needs. The exit code is 0 only if each good event finished once, each bad one is a dead
letter with its reason, and nothing is wedged.
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

from orchestrator.cli.embedded.script import GaveUp, run_script
from orchestrator.client import EventBus
from orchestrator.devserver.child import Child
from orchestrator.devserver.ports import free_port
from orchestrator.devserver.server import NAMESPACE, EmbeddedServer
from orchestrator.store.core.database import Database
from orchestrator.store.migrations.migrate import migrate
from tests.chaos.postgres import Postgres
from tests.sources.application import CATALOG
from tests.sources.audit import Findings
from tests.sources.exercise import Exercise
from tests.sources.marks import tables
from tests.sources.plan import Plan, plan
from tests.sources.senders import Senders

_QUEUE = "sources"
_ROOT = Path(__file__).parents[2]
_READY = b"Worker ready"
_DRAIN = 30.0
_SHOWN = 15


@dataclass(frozen=True, slots=True)
class Options:
    """The command line's options."""

    events: int
    seed: int
    database: Literal["postgresql", "sqlite"]
    processes: int
    keep: bool

    @classmethod
    def read(cls, arguments: Sequence[str]) -> "Options":
        """Parse the command line."""
        parser = argparse.ArgumentParser(prog="make sources", description=__doc__)
        parser.add_argument(
            "--events", type=int, default=5000, help="how many messages, with repeats and garbage (%(default)s)"
        )
        parser.add_argument("--seed", type=int, default=1, help="determines what is sent (%(default)s)")
        parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
        parser.add_argument("--processes", type=int, default=1, help="worker processes (%(default)s)")
        parser.add_argument("--keep", action="store_true", help="keep databases and logs even if nothing is wrong")
        return cls(**vars(parser.parse_args(arguments)))


@asynccontextmanager
async def _everything(options: Options, folder: Path) -> AsyncGenerator[tuple[EmbeddedServer, Database]]:
    """Start Temporal with its Web UI, the database and a worker process; stop them at the end."""
    server = EmbeddedServer(folder / "temporal", port=free_port(0), ui_port=free_port(0))
    postgres = Postgres(folder / "postgres") if options.database == "postgresql" else None
    database: Database | None = None
    worker: Child | None = None
    try:
        if postgres is not None:
            await postgres.start()
        await server.start()
        url = postgres.url if postgres is not None else f"sqlite:///{folder / 'sources.db'}"
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
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("TEMPORAL_", "ORCHESTRATOR_"))
    }
    environment = inherited | {
        "TEMPORAL_ADDRESS": address,
        "TEMPORAL_NAMESPACE": NAMESPACE,
        "TEMPORAL_CONFIG_FILE": os.devnull,
        "ORCHESTRATOR_STATE_DIR": str(folder),
        "ORCHESTRATOR_DATABASE_URL": url,
        "ORCHESTRATOR_TASK_QUEUE": _QUEUE,
        "ORCHESTRATOR_LOG_LEVEL": "ERROR",
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "tests.sources.worker", "--processes", str(options.processes)]
    worker = Child.start(command, log=folder / "worker.log", env=environment, cwd=_ROOT)
    if not await worker.wait_until(lambda: worker.log.read_bytes().count(_READY) >= options.processes):
        raise GaveUp(f"The worker did not start:\n{worker.last_lines()}")
    return worker


def _show(console: Console, sent: Plan, findings: Findings) -> None:
    table = Table("source", "messages", "of them bad")
    bad = Counter(sending.source for sending in sent.bad)
    for source, count in sent.by_source().items():
        table.add_row(source, str(count), str(bad[source]))
    console.print(table)
    kinds = Counter(sending.kind for sending in sent.bad)
    console.print(f"{len(kinds)} kinds of garbage: " + ", ".join(f"{kind} {count}" for kind, count in kinds.items()))
    repeated = sum(sending.attempts > 1 for sending in sent.sendings)
    if repeated:
        console.print(
            f"{repeated} messages had to be sent again; {findings.repeated} of those arrived twice", highlight=False
        )
    for name in ("lost", "doubled", "wedged", "wrong"):
        faults: list[str] = getattr(findings, name)
        for fault in faults[:_SHOWN]:
            console.print(f"{name}: {fault}", style="red", markup=False, highlight=False)
        if len(faults) > _SHOWN:
            console.print(f"{name}: {len(faults) - _SHOWN} more", style="red", highlight=False)


async def _run(options: Options, folder: Path, console: Console) -> int:
    began = monotonic()

    def say(text: str) -> None:
        console.print(f"{monotonic() - began:6.1f} s  {text}", highlight=False, markup=False)

    sent = plan(seed=options.seed, events=options.events)
    async with _everything(options, folder) as (server, database):
        client = await Client.connect(server.address, data_converter=pydantic_data_converter)
        bus = EventBus(client, CATALOG, task_queue=_QUEUE, source="sources")
        storing_bus = EventBus(client, CATALOG, task_queue=_QUEUE, source="sources", database=database)
        senders = Senders(client, bus, storing_bus, database, task_queue=_QUEUE, ui_url=server.ui_url)
        began = monotonic()
        say(f"{len(sent.sendings)} messages: {len(sent.good)} good events, {len(sent.bad)} bad ones, and repeats")
        findings = await Exercise(sent, senders, client, database, task_queue=_QUEUE, say=say).run()
    _show(console, sent, findings)
    letters = sum(len(sending.letters) for sending in sent.bad)
    console.print(
        f"finished once {findings.finished} of {len(sent.good)}, dead letters {findings.dead_letters} of {letters}, in "
        f"{monotonic() - began:.0f} s",
        highlight=False,
    )
    console.print(
        f"lost {len(findings.lost)}, doubled {len(findings.doubled)}, wedged {len(findings.wedged)}, "
        f"wrong {len(findings.wrong)}",
        highlight=False,
    )
    return 0 if findings.is_clean else 1


async def main(options: Options, folder: Path) -> int:
    """Run everything; keep databases and logs only if something is wrong or the options ask for it."""
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
    _folder = Path(tempfile.mkdtemp(prefix="sources-"))
    run_script(lambda: main(_options, _folder), log=_folder / "fault.txt")
