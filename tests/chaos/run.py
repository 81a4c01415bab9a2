"""`make chaos`: clients publish events while faults hit every part of the system; afterwards everything is checked.

The exit code is 0 only if nothing is lost, doubled, wedged or otherwise wrong and every fault happened often enough.
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

from orchestrator.cli.embedded.script import GaveUp, run_script
from orchestrator.devserver.child import Child
from orchestrator.protocol.names import is_partition
from orchestrator.settings import Settings
from orchestrator.store.core.databases import Databases
from orchestrator.store.migrations.migrate import migrate
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

_POLL_INTERVAL = 1.0
_LOAD = 0.95
"""The share of the time in which events are published."""
_STALL_LIMIT = 120.0
"""Seconds without progress after which what has not ended is wedged: twice the longest wait between two attempts."""
_REPORT_INTERVAL = 15.0


@dataclass(frozen=True, slots=True)
class Options:
    """The command line's options."""

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
        """Parse the command line."""
        parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
        parser.add_argument("--sagas", type=int, default=2000, help="how many sagas (%(default)s)")
        parser.add_argument("--minutes", type=float, default=3.0, help="how long faults happen (%(default)s)")
        parser.add_argument("--seed", type=int, default=1, help="determines load and faults (%(default)s)")
        parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
        parser.add_argument("--clients", type=int, default=3, help="processes that publish (%(default)s)")
        parser.add_argument("--processes", type=int, default=2, help="worker processes (%(default)s)")
        stall_help = "seconds without progress after which what has not ended is wedged (%(default)s)"
        parser.add_argument("--standstill", type=float, default=_STALL_LIMIT, help=stall_help)
        parser.add_argument("--mutant", choices=[mutant.name for mutant in MUTANTS], help="break the engine first")
        parser.add_argument("--verbose", action="store_true", help="show the plan, and each fault as it happens")
        parser.add_argument("--keep", action="store_true", help="keep databases and logs even if nothing is wrong")
        parser.add_argument(
            "--remove", action="store_true", help="remove databases and logs even if something is wrong"
        )
        return cls(**vars(parser.parse_args(arguments)))

    @property
    def seconds(self) -> float:
        """How long faults happen."""
        return self.minutes * 60


class Run:
    """One run.

    Args:
        options: the command line's options.
        victims: the parts, running, but without workers.
        client: a Temporal client.
        databases: the bank's databases, with their tables.
        console: shows the progress.
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

    async def execute(self) -> int:
        """Publish, cause faults, let everything end and check; return the exit code."""
        options, console = self._options, self._console
        published = orders(
            seed=options.seed,
            sagas=options.sagas,
            seconds=options.seconds * _LOAD,
            clients=options.clients,
            writes_alone=options.database == "sqlite",
        )
        write_orders(self._victims.folder, published, options.clients)
        if options.verbose:
            show_plan(console, self._plan)
        self._victims.start_workers()
        if not await self._victims.wait_for_workers():
            raise GaveUp("The workers did not start; their log says why.")
        clients = [self._client_process(number) for number in range(options.clients)]
        self._say(f"{options.sagas} events by {options.clients} clients, {len(self._plan)} faults")
        self._began = monotonic()
        async with asyncio.TaskGroup() as background:
            watching, cancelling = (background.create_task(work) for work in (self._progress.watch(), self._cancel()))
            keeping = background.create_task(self._victims.keep_workers())
            await asyncio.gather(*(self._do(fault) for fault in self._plan))
            await self._progress.until(options.seconds)
            cancelling.cancel()
            await self._victims.heal()
            self._say(f"the last fault has happened; {self._summary}")
            await self._wait_for_ends(clients)
            watching.cancel()
            keeping.cancel()
        for client in clients:
            if client.exit_code:
                raise GaveUp(f"A client failed:\n{client.last_lines()}")
        return await self._check({order.event_id: order for order in published})

    @property
    def _summary(self) -> str:
        return f"{self._progress.ended} of {self._options.sagas} sagas have ended, {self._progress.open} are open"

    @property
    def _elapsed(self) -> float:
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
            await asyncio.sleep(_POLL_INTERVAL)
            await until_answered(lambda: self._people.cancel(CANCELLED))

    async def _wait_for_ends(self, clients: Sequence[Child]) -> None:
        """Wait until everything has ended or nothing makes progress; what has not ended by then is wedged."""
        reported_at = monotonic()
        while self._progress.still_for < self._options.standstill and not any(client.exit_code for client in clients):
            has_ended = self._progress.ended == self._options.sagas and not self._progress.open
            if has_ended and all(client.has_ended for client in clients):
                with contextlib.suppress(*AWAY):
                    if not await self._running():
                        self._say("everything has ended")
                        break
            if monotonic() - reported_at > _REPORT_INTERVAL:
                reported_at = monotonic()
                self._say(self._summary)
            await asyncio.sleep(_POLL_INTERVAL)
        else:
            self._say(f"no progress for {self._progress.still_for:.0f} s, so what has not ended is wedged")

    async def _running(self) -> list[str]:
        """Return the ids of running executions other than partitions."""
        kinds = ", ".join(f"'{name}'" for name in CATALOG.orchestrators)
        listed = self._client.list_workflows(f"ExecutionStatus = 'Running' AND WorkflowType IN ({kinds})")
        return [execution.id async for execution in listed if not is_partition(execution.id)]

    async def _check(self, published: Mapping[str, Order]) -> int:
        options, console = self._options, self._console
        books = await Books.of(self._databases)
        accepted_events = accepted(self._victims.folder, options.clients)
        events = {event_id: order.event for event_id, order in published.items()}
        findings: Findings = audit(events, accepted_events, books, await self._running(), self._people.terminated)
        unaccepted = len(published) - len(accepted_events)
        if unaccepted:
            findings.wedged.append(f"{unaccepted} events were never accepted")
        hit_counts = self._victims.hits + self._people.hits
        late = len(self._victims.late.read_text().splitlines()) if self._victims.late.exists() else 0
        least = minima(self._plan, minutes=options.minutes, sagas=options.sagas)
        needed = hits(least, hit_counts, books, late)
        show_hits(console, needed, least, hit_counts)
        show_clocks(console, self._victims.clocks.read_text().splitlines())
        show_findings(console, findings, books)
        console.print(
            f"{len(accepted_events)} events accepted in {accepted_events.total()} publishes, {len(books.sagas)} sagas, "
            f"{len(books.entries)} entries, {self._people.cancels} cancels, in {self._elapsed:.0f} s",
            highlight=False,
        )
        missed = [hit for hit in needed if not hit.is_enough]
        for hit in missed:
            console.print(
                f"not often enough: {hit.label}: {hit.count:g} of {hit.least:g}", style="red", highlight=False
            )
        console.print(str(findings), highlight=False)
        return 0 if findings.is_clean and not missed else 1

    def _client_process(self, number: int) -> Child:
        arguments = [str(self._victims.folder), str(number), str(self._options.seed)]
        return Child.start(
            [sys.executable, "-m", "tests.chaos.client", *arguments],
            log=self._victims.folder / f"client-{number}.log",
            env=self._victims.environment(),
            cwd=ROOT,
        )

    def _say(self, text: str) -> None:
        self._console.print(f"{self._elapsed:6.1f} s  {text}", highlight=False, markup=False)


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
    """Copy the project and apply a mutant to the copy, for the workers."""
    [mutant] = (mutant for mutant in MUTANTS if mutant.name == name)
    return _applied(Sandbox(folder), mutant)


def _applied(sandbox: Sandbox, mutant: Mutant) -> Path:
    mutant.apply(sandbox.root)
    return sandbox.root


async def main(options: Options, folder: Path) -> int:
    """Run everything; keep databases and logs if something is wrong, or as the options ask for."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    code = 1
    try:
        async with _everything(options, folder, console) as run:
            code = await run.execute()
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
