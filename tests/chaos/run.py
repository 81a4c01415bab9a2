"""`make chaos`: starts what it needs, lets clients publish while faults are done to everything, counts, and cleans up.

Exit code 0 only if nothing is lost, doubled, wedged or otherwise wrong, and if every fault was done often enough.
"""

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import monotonic

from rich.console import Console
from sqlalchemy import insert
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from orchestrator.devserver.child import Child
from orchestrator.protocol.names import is_partition
from orchestrator.settings import Settings
from orchestrator.store.core.databases import Databases
from orchestrator.store.migrations.migrate import migrate
from starter.process import GaveUp, run_script
from tests.chaos.accounts import JOURNAL, account, tables
from tests.chaos.audit import Books, Findings, audit
from tests.chaos.bank import CATALOG
from tests.chaos.interventions import AWAY, Interventions, until_answered
from tests.chaos.load import ACCOUNTS, BALANCE, Order, accepted, orders, write_orders
from tests.chaos.plan import CANCELLED, Dialect, Fault, Target, minima, plan
from tests.chaos.progress import Progress
from tests.chaos.report import hits, show_clocks, show_findings, show_hits, show_plan
from tests.chaos.victims import Victims
from tests.mutants.mutants import MUTANTS, Mutant
from tests.mutants.sandbox import ROOT, Sandbox

_LOOK = 1.0
_LOAD = 0.95
"""Part of the time over which events are published."""
_STANDSTILL = 120.0
"""Seconds without any progress after which what is left is wedged: twice the longest wait between two tries."""
_SAYS = 15.0


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is asked for."""

    sagas: int
    minutes: float
    seed: int
    database: Dialect
    clients: int
    processes: int
    standstill: float
    mutant: str | None
    verbose: bool
    keep: bool
    remove: bool

    @classmethod
    def read(cls, arguments: Sequence[str]) -> "Options":
        """From the command line."""
        parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
        parser.add_argument("--sagas", type=int, default=2000, help="how many (%(default)s)")
        parser.add_argument("--minutes", type=float, default=3.0, help="for how long faults are done (%(default)s)")
        parser.add_argument("--seed", type=int, default=1, help="decides load and faults (%(default)s)")
        parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
        parser.add_argument("--clients", type=int, default=3, help="processes that publish (%(default)s)")
        parser.add_argument("--processes", type=int, default=2, help="worker processes (%(default)s)")
        told = "seconds without progress after which what is left is wedged (%(default)s)"
        parser.add_argument("--standstill", type=float, default=_STANDSTILL, help=told)
        parser.add_argument("--mutant", choices=[mutant.name for mutant in MUTANTS], help="break the engine first")
        parser.add_argument("--verbose", action="store_true", help="show the plan, and each fault as it is done")
        parser.add_argument("--keep", action="store_true", help="keep databases and logs, whatever the end")
        parser.add_argument("--remove", action="store_true", help="remove them, whatever the end")
        return cls(**vars(parser.parse_args(arguments)))

    @property
    def seconds(self) -> float:
        """For how long faults are done."""
        return self.minutes * 60


class Run:
    """One run.

    Args:
        options: how much of everything.
        victims: run, without workers.
        client: Temporal's.
        databases: the bank's, with their tables.
        console: told what happens.
    """

    def __init__(
        self, options: Options, victims: Victims, client: Client, databases: Databases, console: Console
    ) -> None:
        self._options = options
        self._victims = victims
        self._client = client
        self._databases = databases
        self._database = databases.home
        self._console = console
        self._began = monotonic()
        self._plan = plan(seed=options.seed, minutes=options.minutes, sagas=options.sagas, database=options.database)
        folder, count = victims.folder, options.clients
        self._progress = Progress(databases.home, lambda: len(accepted(folder, count)), options.seconds)
        self._people = Interventions(client, databases.home, Settings().task_queue, Random(f"people/{options.seed}"))

    async def go(self) -> int:
        """Publish, break, heal, count; the exit code."""
        options, console = self._options, self._console
        made = orders(
            seed=options.seed,
            sagas=options.sagas,
            seconds=options.seconds * _LOAD,
            clients=options.clients,
            writes_alone=options.database == "sqlite",
        )
        write_orders(self._victims.folder, made, options.clients)
        if options.verbose:
            show_plan(console, self._plan)
        self._victims.start_workers()
        if not await self._victims.wait_for_workers():
            raise GaveUp("The workers did not start; their log tells why.")
        clients = [self._client_process(number) for number in range(options.clients)]
        self._say(f"{options.sagas} events by {options.clients} clients, {len(self._plan)} faults")
        self._began = monotonic()
        async with asyncio.TaskGroup() as beside:
            watching, cancelling = (beside.create_task(work) for work in (self._progress.watch(), self._cancel()))
            keeping = beside.create_task(self._victims.keep_workers())
            await asyncio.gather(*(self._do(fault) for fault in self._plan))
            await self._progress.until(options.seconds)
            cancelling.cancel()
            await self._victims.heal()
            self._say(f"the last fault is done; {self._standing}")
            await self._until_quiet(clients)
            watching.cancel()
            keeping.cancel()
        for client in clients:
            if client.exit_code:
                raise GaveUp(f"A client failed:\n{client.last_lines()}")
        return await self._count({order.event_id: order for order in made})

    @property
    def _standing(self) -> str:
        return f"{self._progress.ended} of {self._options.sagas} sagas have ended, {self._progress.open} are open"

    @property
    def _after(self) -> float:
        return monotonic() - self._began

    async def _do(self, fault: Fault) -> None:
        await self._progress.until(fault.at)
        if self._options.verbose:
            self._say(f"{fault.act} {fault.target}")
        if fault.target in (Target.SAGA, Target.PARTITION):
            await self._people.do(fault)
        else:
            await self._victims.suffer(fault)

    async def _cancel(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            await until_answered(lambda: self._people.cancel(CANCELLED))

    async def _until_quiet(self, clients: Sequence[Child]) -> None:
        """Wait until everything has ended, or nothing does any more: what is left then is wedged."""
        said = monotonic()
        while self._progress.still_for < self._options.standstill and not any(client.exit_code for client in clients):
            has_ended = self._progress.ended == self._options.sagas and not self._progress.open
            if has_ended and all(client.has_ended for client in clients):
                with contextlib.suppress(*AWAY):
                    if not await self._running():
                        self._say("quiet")
                        break
            if monotonic() - said > _SAYS:
                said = monotonic()
                self._say(self._standing)
            await asyncio.sleep(_LOOK)
        else:
            self._say(f"nothing has changed for {self._progress.still_for:.0f} s: what has not ended is wedged")

    async def _running(self) -> list[str]:
        """Executions of their own that run."""
        kinds = ", ".join(f"'{name}'" for name in CATALOG.orchestrators)
        listed = self._client.list_workflows(f"ExecutionStatus = 'Running' AND WorkflowType IN ({kinds})")
        return [execution.id async for execution in listed if not is_partition(execution.id)]

    async def _count(self, made: Mapping[str, Order]) -> int:
        options, console = self._options, self._console
        books = await Books.of(self._databases)
        taken = accepted(self._victims.folder, options.clients)
        events = {event_id: order.event for event_id, order in made.items()}
        found: Findings = audit(events, taken, books, await self._running(), self._people.terminated)
        unaccepted = len(made) - len(taken)
        if unaccepted:
            found.wedged.append(f"{unaccepted} events were never accepted")
        had = self._victims.hits + self._people.hits
        late = len(self._victims.late.read_text().splitlines()) if self._victims.late.exists() else 0
        least = minima(self._plan, minutes=options.minutes, sagas=options.sagas)
        needed = hits(least, had, books, late)
        show_hits(console, needed, least, had)
        show_clocks(console, self._victims.clocks.read_text().splitlines())
        show_findings(console, found, books)
        console.print(
            f"{len(taken)} events accepted in {taken.total()} publishes, {len(books.sagas)} sagas, "
            f"{len(books.entries)} entries, {self._people.cancels} cancels, in {self._after:.0f} s",
            highlight=False,
        )
        missed = [hit for hit in needed if not hit.is_enough]
        for hit in missed:
            console.print(f"not often enough: {hit.what}: {hit.had:g} of {hit.least:g}", style="red", highlight=False)
        console.print(str(found), highlight=False)
        return 0 if found.is_clean and not missed else 1

    def _client_process(self, number: int) -> Child:
        arguments = [str(self._victims.folder), str(number), str(self._options.seed)]
        return Child.start(
            [sys.executable, "-m", "tests.chaos.client", *arguments],
            log=self._victims.folder / f"client-{number}.log",
            env=self._victims.environment(),
            cwd=ROOT,
        )

    def _say(self, text: str) -> None:
        self._console.print(f"{self._after:6.1f} s  {text}", highlight=False, markup=False)


@asynccontextmanager
async def _everything(options: Options, folder: Path, console: Console) -> AsyncGenerator[Run]:
    root = ROOT if options.mutant is None else _broken(folder, options.mutant)
    random = Random(f"victims/{options.seed}")
    is_postgresql = options.database == "postgresql"
    victims = Victims(folder, random, root=root, processes=options.processes, is_postgresql=is_postgresql)
    databases: Databases | None = None
    try:
        await victims.start()
        databases = Databases.at(victims.database_url, {JOURNAL: victims.journal_url})
        for name, database in databases:
            await migrate(database, name=name, application=tables)
        async with databases.home.transaction() as connection:
            await connection.execute(insert(account), [{"name": name, "balance": BALANCE} for name in ACCOUNTS])
        client = await Client.connect(victims.server.address, data_converter=pydantic_data_converter)
        yield Run(options, victims, client, databases, console)
    finally:
        if databases is not None:
            await databases.close()
        await victims.close()


def _broken(folder: Path, name: str) -> Path:
    """A copy of the project with a mutant in it, for the workers."""
    [mutant] = (mutant for mutant in MUTANTS if mutant.name == name)
    return _applied(Sandbox(folder), mutant)


def _applied(sandbox: Sandbox, mutant: Mutant) -> Path:
    mutant.apply(sandbox.root)
    return sandbox.root


async def main(options: Options, folder: Path) -> int:
    """The whole run; what it leaves behind stays only if something is wrong."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    code = 1
    try:
        async with _everything(options, folder, console) as run:
            code = await run.go()
    finally:
        if (code or options.keep) and not options.remove:
            print(f"Databases and logs are in {folder}", file=sys.stderr)
        else:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    _options = Options.read(sys.argv[1:])
    _folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    run_script(lambda: main(_options, _folder), log=_folder / "fault.txt")
