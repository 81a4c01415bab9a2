"""`python -m starter.storm`: publishes many transfers at once while workers are killed, then checks the result.

It starts its own Temporal server and workers, in a new folder that is deleted if every check holds. The exit code is 0
only then. `--database-url` names another database for the application's data: an empty one, or that of an earlier run.
"""

import argparse
import asyncio
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from time import monotonic

from sqlalchemy import func, select

from events.account import MoneyTransferCompleted
from orchestrator import SagaHandle
from orchestrator.cli.embedded.script import GaveUp, run_script
from orchestrator.cli.embedded.show import Show
from orchestrator.cli.embedded.stack import Stack
from orchestrator.client import EventBus
from orchestrator.protocol.commands import Outcome, Phase
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_step
from starter.audit import Attempts, Books, Check, Kill, attempts, audit, kills_hit
from starter.stack import smartexpense_stack
from starter.survival import unfinished_sagas
from starter.workload import Workload, workload
from workflows.account_creation import AccountCreation

_LOOK = 0.01
_LAST_KILL_AT = 0.8
"""No worker is killed after this fraction of the steps, so that the next worker has sagas to continue."""
_PUBLISHED_TWICE = 10
"""One event in ten is published twice, as by a client that lost the reply."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run."""

    transfers: int
    accounts: int
    kills: int
    workers: int
    seed: int
    database_url: str
    patience: float

    @classmethod
    def read(cls, arguments: Sequence[str] | None = None) -> "Options":
        """Read the options from the command line."""
        parser = argparse.ArgumentParser(
            prog="python -m starter.storm",
            description="Publish many transfers at once while workers are killed, then check the result.",
        )
        parser.add_argument(
            "--transfers", type=_Whole(1), default=200, help="number of transfers, all published at once (%(default)s)"
        )
        parser.add_argument("--accounts", type=_Whole(2), default=10, help="number of accounts (%(default)s)")
        parser.add_argument(
            "--kills", type=_Whole(0), default=3, help="number of workers to kill with SIGKILL (%(default)s)"
        )
        parser.add_argument("--workers", type=_Whole(1), default=1, help="number of concurrent workers (%(default)s)")
        parser.add_argument(
            "--seed", type=int, default=1, help="seed for the transfers and the times of the kills (%(default)s)"
        )
        parser.add_argument("--database-url", default="", help="sqlite:///… or postgresql://… (a new SQLite file)")
        parser.add_argument(
            "--patience", type=float, default=300.0, help="seconds to wait for all outcomes (%(default)s)"
        )
        return cls(**vars(parser.parse_args(arguments)))


class Storm:
    """One run of the storm.

    Args:
        options: the options of the run.
        stack: a running server with workers.
        bus: a bus that is connected to that server.
        database: SmartExpense's.
    """

    def __init__(self, options: Options, stack: Stack, bus: EventBus, database: Database) -> None:
        self.options = options
        self.stack = stack
        self.show = stack.show
        self.bus = bus
        self.database = database
        self.received: dict[str, Outcome] = {}
        self.kills: list[Kill] = []
        self._random = Random(options.seed)  # noqa: S311 - a simulation, not a secret
        self._began_with = 0

    async def run(self) -> list[Check]:
        """Open accounts, publish the transfers, kill workers, wait for the outcomes, and return the checks.

        Raises:
            GaveUp: an outcome did not arrive in time, or a worker did not start.
        """
        work = workload(self._random, accounts=self.options.accounts, transfers=self.options.transfers)
        await asyncio.gather(*(self.bus.execute(AccountCreation, account) for account in work.accounts))
        before = await Books.of(self.database, work)
        self._began_with = await self._steps_done()
        self.show.step(f"{len(before.balances)} accounts are open; requesting {len(work.transfers)} transfers at once")
        began = monotonic()
        try:
            async with asyncio.timeout(self.options.patience):
                transfers = (self._transfer(work, event_id) for event_id in work.transfers)
                await asyncio.gather(self._kill_workers(work), *transfers)
        except TimeoutError:
            missing = sorted(work.transfers.keys() - self.received.keys())
            raise GaveUp(
                f"After {self.options.patience:g} s {len(missing)} of {len(work.transfers)} transfers have no outcome, "
                f"such as {', '.join(missing[:3])}."
            ) from None
        took = monotonic() - began
        after = await Books.of(self.database, work)
        self.show.step("All transfers have their outcome; checking")
        counted = await attempts(self.bus.client, work, after)
        checks = [kills_hit(self.options.kills, self.kills), *audit(work, self.received, before, after)]
        self._report(took, before, after, counted)
        return checks

    async def _transfer(self, work: Workload, event_id: str) -> None:
        handle = await self._publish(work, event_id)
        if self._random.randrange(_PUBLISHED_TWICE) == 0:
            await self._publish(work, event_id)
        self.received[event_id] = await handle.outcome()
        quarter = max(1, len(work.transfers) // 4)
        if len(self.received) % quarter == 0:
            self.show.step(f"{len(self.received)} of {len(work.transfers)} transfers have their outcome")

    async def _publish(self, work: Workload, event_id: str) -> SagaHandle[MoneyTransferCompleted]:
        [handle] = await self.bus.publish(work.transfers[event_id], event_id=event_id)
        return handle

    async def _kill_workers(self, work: Workload) -> None:
        """Kill workers at random times over the run, each in the middle of some sagas."""
        random = Random(self.options.seed)  # noqa: S311 - separate, so that the times do not depend on the order of publishing
        for number in range(self.options.kills):
            part = (number + random.uniform(0.2, 0.9)) / self.options.kills * _LAST_KILL_AT
            while not await self._has_progressed(part, work):
                if len(self.received) == len(work.transfers):
                    return  # All sagas have ended. The check of the kills reports it.
                await asyncio.sleep(_LOOK)
            worker = random.choice(self.stack.workers)
            await worker.kill()
            steps, midway = (
                await self._steps_done() - self._began_with,
                await unfinished_sagas(self.database, [*work.transfers]),
            )
            in_transit = sum(unfinished.has_money_in_transit for unfinished in midway)
            self.kills.append(Kill(worker.pid, steps, len(midway), in_transit))
            self.show.wait(
                f"Worker {worker.pid} was killed with SIGKILL after {steps} steps, "
                f"{len(midway)} sagas in the middle, {in_transit} with money in transit"
            )
            other = await self.stack.start_worker()
            self.show.step(f"Worker {other.pid} has taken over")

    async def _has_progressed(self, part: float, work: Workload) -> bool:
        """Whether this part of the steps is done and a saga is in flight."""
        done = await self._steps_done() - self._began_with
        return done >= part * work.steps and bool(await unfinished_sagas(self.database, [*work.transfers]))

    async def _steps_done(self) -> int:
        async with self.database.reading() as connection:
            return await connection.scalar(select(func.count()).select_from(saga_step)) or 0

    def _report(self, took: float, before: Books, after: Books, counted: Attempts) -> None:
        outcomes = Counter(outcome.error_code or "completed" for outcome in self.received.values())
        states = Counter(step["state"] for step in after.steps)
        was, now = before.sums(), after.sums()
        rows: list[tuple[str, ...]] = [
            ("outcomes", str(len(self.received)), f"in {took:.1f} s"),
            *((f"  {kind}", str(count), "") for kind, count in sorted(outcomes.items(), key=lambda item: -item[1])),
            ("workers killed", str(len(self.kills)), f"{sum(kill.midway for kill in self.kills)} sagas in the middle"),
            ("steps recorded", str(len(after.steps)), ", ".join(f"{count} {state}" for state, count in states.items())),
            ("activities", str(counted.activities), "compensations, begins of undos and finishes included"),
            ("attempts repeated", str(counted.repeats), "the earlier attempt died with its worker, or failed"),
            ("repeats absorbed", str(counted.absorbed), "the step had been committed, so its record was returned"),
            *((f"sum of {code}", str(now[code]), f"minor units; {was[code]} before") for code in sorted(was | now)),
        ]
        self.show.plain()
        self.show.table("what", "count", "", rows=rows, right=("count",))


async def storm(options: Options, folder: Path) -> int:
    """Run one storm in a folder. Return 0 if every check holds."""
    show = Show()
    settings = Settings(state_dir=folder, database_url=options.database_url)
    show.step(f"Seed {options.seed}: {options.transfers} transfers, {options.accounts} accounts, {options.kills} kills")
    async with smartexpense_stack(settings, show) as stack:
        for _ in range(options.workers):
            worker = await stack.start_worker()
            show.step(f"Worker {worker.pid} is ready")
        database = Database(stack.settings.resolved_database_url)
        try:
            show.step(f"The application's database is {database.shown}")
            run = Storm(options, stack, await EventBus.connect(stack.settings), database)
            checks = await run.run()
        finally:
            await database.close()
    show.heading("Checks")
    for check in checks:
        show.plain(f"  {'holds' if not check.faults else 'FAILS'}  {check.what}")
        for fault in check.faults:
            show.plain(f"           {fault}")
    show.plain()
    if any(check.faults for check in checks):
        show.plain(f"Some checks failed. The state is in {folder}.")
        return 1
    completed = sum(outcome.phase is Phase.COMPLETED for outcome in run.received.values())
    show.good(f"{len(run.received)} transfers, {completed} completed, every check holds.")
    return 0


async def _in(folder: Path, options: Options) -> int:
    """Run in a folder that is deleted afterwards, unless a check failed and the folder is needed to find out why."""
    try:
        code = await storm(options, folder)
    except asyncio.CancelledError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if code == 0:
        shutil.rmtree(folder, ignore_errors=True)
    return code


class _Whole:
    """Parses a whole number with a lower bound."""

    def __init__(self, least: int) -> None:
        self._least = least

    def __call__(self, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = self._least - 1
        if number < self._least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {self._least}")
        return number


if __name__ == "__main__":
    _options = Options.read()
    _folder = Path(mkdtemp(prefix="simulation-"))
    run_script(lambda: _in(_folder, _options), log=_folder / "storm.log")
