"""`python -m starter.simulate --users 50 --months 12 --seed 7`: simulates users' lives, then checks every invariant.

It starts its own Temporal server and workers, in a new folder that is deleted if every invariant holds.
`--kill-every 30` kills a worker with SIGKILL every 30 seconds, which does not change the result. The exit code is 0
only if every invariant holds and every saga has its outcome.
"""

import argparse
import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from time import monotonic
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from sqlalchemy import func, select

from events.activity_log import ActivityRecordRemovalRequested
from orchestrator import NotFinished, SagaHandle
from orchestrator.cli.embedded.script import GaveUp, run_script
from orchestrator.cli.embedded.show import Show
from orchestrator.cli.embedded.stack import Stack
from orchestrator.client import EventBus
from orchestrator.protocol.commands import Outcome, Phase, StepState
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_step
from starter.digest import digest
from starter.invariants import snapshot, violations
from starter.life import CATEGORIES, Life, RemovalRequest, Request
from starter.seed import seed
from starter.stack import smartexpense_stack
from starter.tables import ACTIVITY_RECORD
from starter.users import add_category, add_user

_PATIENCE = timedelta(minutes=5)
"""The longest wait for one outcome. A killed worker is replaced within seconds."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a simulation."""

    users: int
    months: int
    seed: int
    workers: int
    kill_every: float
    json: bool
    database_url: str

    @classmethod
    def read(cls, arguments: Sequence[str] | None = None) -> "Options":
        """Read the options from the command line."""
        parser = argparse.ArgumentParser(
            prog="python -m starter.simulate",
            description="Simulate users' lives. The exit code is 0 only if every invariant holds afterwards.",
        )
        parser.add_argument("--users", type=_at_least_one, default=50, help="number of users (%(default)s)")
        parser.add_argument("--months", type=_at_least_one, default=12, help="number of months (%(default)s)")
        parser.add_argument("--seed", type=int, default=7, help="seed for what the users do (%(default)s)")
        parser.add_argument(
            "--workers", type=_at_least_one, default=1, help="number of concurrent workers (%(default)s)"
        )
        parser.add_argument(
            "--kill-every", type=float, default=0.0, help="seconds between two kills of a worker (never)"
        )
        parser.add_argument("--json", action="store_true", help="print one line of JSON at the end")
        parser.add_argument("--database-url", default="", help="an empty database (a new SQLite file)")
        return cls(**vars(parser.parse_args(arguments)))


@dataclass(slots=True)
class Result:
    """The result of a simulation. The last five fields do not depend on timing."""

    seconds: float
    workers_killed: int
    steps: int
    events: int = 0
    outcomes: dict[str, int] = field(default_factory=dict[str, int])
    """The number of sagas by orchestrator and end, which is `completed` or the error code."""
    sagas_undone: int = 0
    violations: list[str] = field(default_factory=list[str])
    digest: str = ""


class Simulation:
    """One run of the simulation.

    Args:
        options: the options of the run.
        stack: a running server with workers.
        bus: a bus that is connected to that server.
        database: SmartExpense's.
    """

    def __init__(self, options: Options, stack: Stack, bus: EventBus, database: Database) -> None:
        self.options = options
        self.stack = stack
        self.bus = bus
        self.database = database
        self.lives = [Life(options.seed, number, options.months) for number in range(1, options.users + 1)]
        self.outcomes: Counter[str] = Counter()
        self.killed = 0

    async def set_up(self) -> None:
        """Insert rates, users and categories."""
        async with self.database.transaction() as connection:
            await seed(connection, accounts=False)
            for life in self.lives:
                await add_user(connection, life.user, life.home, "uk-UA")
                for name, budget_type in CATEGORIES.items():
                    await add_category(connection, life.user, life.category(name), name.capitalize(), budget_type)

    async def run(self) -> Result:
        """Publish the events of all users concurrently, and those of one user in order. Then check the invariants.

        Raises:
            GaveUp: an outcome did not arrive in time, or a worker did not start.
        """
        requests = {life.user: list(life.events()) for life in self.lives}
        total, began = sum(map(len, requests.values())), monotonic()
        with _Bar(self.stack.show, total) as bar:
            killing = asyncio.create_task(self._kill_workers())
            try:
                async with asyncio.TaskGroup() as group:
                    for events in requests.values():
                        group.create_task(self._live(events, bar))
                    group.create_task(self._watch(killing, total))
            except* GaveUp as faults:
                raise faults.exceptions[0] from None
            finally:
                killing.cancel()
                with suppress(asyncio.CancelledError):
                    await killing
        return await self._result(monotonic() - began)

    async def _watch(self, killing: "asyncio.Task[None]", total: int) -> None:
        """Wait until all outcomes are there. Raise if a killed worker cannot be replaced."""
        while self.outcomes.total() < total:
            done, _ = await asyncio.wait([killing], timeout=1)
            if done and not killing.cancelled():
                killing.result()

    async def _live(self, events: Sequence[Request | RemovalRequest], bar: "_Bar") -> None:
        for request in events:
            event = request.event if isinstance(request, Request) else await self._removal(request)
            [handle] = await self.bus.publish(event, event_id=request.event_id, time=request.time)
            outcome = await self._outcome(handle)
            self.outcomes[f"{handle.orchestrator.__name__} {outcome.error_code or outcome.phase}"] += 1
            bar.advance()

    async def _outcome(self, handle: SagaHandle[Any]) -> Outcome:
        try:
            return await handle.outcome(timeout=_PATIENCE)
        except NotFinished as fault:
            raise GaveUp(f"{handle.event_id} has no outcome after {_PATIENCE}: {fault}") from fault

    async def _removal(self, removal: RemovalRequest) -> ActivityRecordRemovalRequested:
        """Create the removal event. The record's id is known only after the recorded event has its outcome."""
        life = next(
            life for life in self.lives if removal.event_id.startswith(f"life-{self.options.seed}-{life.user}-")
        )
        statement = select(ACTIVITY_RECORD.c.id).where(ACTIVITY_RECORD.c.event_id == removal.recorded_by)
        async with self.database.reading() as connection:
            record = await connection.scalar(statement)
        # A refused event has no record; then the removal names a record that does not exist.
        record_id = record or uuid5(NAMESPACE_OID, removal.recorded_by)
        return ActivityRecordRemovalRequested(user_id=life.user, record_id=record_id)

    async def _kill_workers(self) -> None:
        if not self.options.kill_every:
            await asyncio.Event().wait()
        random = Random(self.options.seed)  # noqa: S311 - which worker dies does not matter
        while True:
            await asyncio.sleep(self.options.kill_every)
            worker = random.choice(self.stack.workers)
            await worker.kill()
            self.killed += 1
            await self.stack.start_worker()

    async def _result(self, seconds: float) -> Result:
        async with self.database.reading() as connection:
            violated = await violations(connection)
            undone = await connection.scalar(
                select(func.count(saga_step.c.saga_id.distinct())).where(saga_step.c.state == StepState.UNDONE.value)
            )
            steps = await connection.scalar(select(func.count()).select_from(saga_step))
            unfinished = select(saga.c.event_id).where(saga.c.phase.in_((Phase.FORWARD.value, Phase.UNDOING.value)))
            violated += [f"saga {event_id} has no outcome" for event_id in await connection.scalars(unfinished)]
            tables = await snapshot(connection)
        return Result(
            seconds=round(seconds, 1),
            workers_killed=self.killed,
            steps=steps or 0,
            events=self.outcomes.total(),
            outcomes=dict(sorted(self.outcomes.items())),
            sagas_undone=undone or 0,
            violations=violated,
            digest=digest(tables),
        )


class _Bar:
    """A progress bar on a terminal; otherwise a line after each tenth of the events."""

    def __init__(self, show: Show, total: int) -> None:
        self._show = show
        self._total = total
        self._done = 0
        self._progress = Progress(
            TextColumn("events"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(),
            disable=not show.is_terminal,
        )
        self._task = self._progress.add_task("events", total=total)

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self) -> None:
        """Count one more event that has its outcome."""
        self._done += 1
        self._progress.advance(self._task)
        if not self._show.is_terminal and self._done * 10 // self._total > (self._done - 1) * 10 // self._total:
            self._show.step(f"{self._done:,} of {self._total:,} events have their outcome")


async def simulate(options: Options, folder: Path) -> int:
    """Run one simulation in a folder. Return 0 if every invariant holds."""
    show = Show()
    settings = Settings(state_dir=folder, database_url=options.database_url)
    show.step(f"Seed {options.seed}: {options.users} users, {options.months} months")
    async with smartexpense_stack(settings, show) as stack:
        for _ in range(options.workers):
            worker = await stack.start_worker()
            show.step(f"Worker {worker.pid} is ready")
        database = Database(stack.settings.resolved_database_url)
        bus = await EventBus.connect(stack.settings)
        try:
            show.step(f"The application's database is {database.shown}")
            simulation = Simulation(options, stack, bus, database)
            await simulation.set_up()
            result = await simulation.run()
        finally:
            await bus.close()
            await database.close()
    _print_result(show, result)
    if result.violations:
        show.plain(f"Some invariants are violated. The state is in {folder}.")
    if options.json:
        print(json.dumps(asdict(result)), flush=True)
    return 1 if result.violations else 0


def _print_result(show: Show, result: Result) -> None:
    rows = [(*outcome.split(" ", 1), f"{number:,}") for outcome, number in result.outcomes.items()]
    show.plain()
    show.table("orchestrator", "ended", "sagas", rows=[tuple(row) for row in rows], right=("sagas",))
    show.plain()
    show.step(
        f"{result.events:,} events in {result.seconds:,} s, {result.steps:,} steps; "
        f"{result.sagas_undone:,} sagas undone halfway; {result.workers_killed} workers killed"
    )
    show.step(f"Digest of the final tables: {result.digest}")
    for sentence in result.violations:
        show.plain(f"  VIOLATED  {sentence}")
    if not result.violations:
        show.good("Every invariant holds, and every saga has its outcome.")


async def _in(folder: Path, options: Options) -> int:
    """Run in a folder that is deleted afterwards, unless a check failed and the folder is needed to find out why."""
    try:
        code = await simulate(options, folder)
    except asyncio.CancelledError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if code == 0:
        shutil.rmtree(folder, ignore_errors=True)
    return code


def _at_least_one(text: str) -> int:
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


if __name__ == "__main__":
    _options = Options.read()
    _folder = Path(mkdtemp(prefix="simulation-"))
    run_script(lambda: _in(_folder, _options), log=_folder / "simulate.log")
