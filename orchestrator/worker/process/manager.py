"""The manager: finds every orchestrator and operation, registers them, runs them, drains on Ctrl-C and SIGTERM."""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from sqlmodel import SQLModel
from temporalio.api.workflowservice.v1 import GetClusterInfoRequest
from temporalio.client import Client
from temporalio.runtime import Runtime
from temporalio.service import RPCError
from temporalio.worker import Worker

from orchestrator.client.connection import connect_temporal
from orchestrator.client.task_queues import other_queues
from orchestrator.definition.catalog import Catalog
from orchestrator.definition.databases import problems_of_databases
from orchestrator.definition.tables import problems_of_tables
from orchestrator.errors import DefinitionError, OrchestratorError
from orchestrator.settings import InvalidSettings, Settings
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.migrations.migrate import migrate
from orchestrator.store.recovery import RecoveryRefused, check_shared
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.telemetry.streams import open_standard_streams, write_line
from orchestrator.worker.activities import activities_of
from orchestrator.worker.clocks import comparing_clocks
from orchestrator.worker.fault_log import fault_log_of, shorten_library_logs
from orchestrator.worker.lookup import answer_activity
from orchestrator.worker.partition.wave import wave_activity
from orchestrator.worker.process.command_line import run_command
from orchestrator.worker.process.heart import READY, Heart, Supervised
from orchestrator.worker.process.supervisor import HEART_LIMIT, Supervisor, own_command
from orchestrator.worker.process.watchdog import Watchdog
from orchestrator.worker.process.workflow_threads import WorkflowThreads
from orchestrator.worker.recovery.limits import Limits
from orchestrator.worker.recovery.schedule import ensure_schedule, schedule_id
from orchestrator.worker.recovery.sweep import Recovery, recovery_activity
from orchestrator.worker.relay.delivery import Delivery
from orchestrator.worker.relay.publish import message_activity
from orchestrator.worker.relay.relay import RelayLimits, relaying
from orchestrator.worker.retention import purge_by_itself
from orchestrator.worker.scheduled import publish_activity
from orchestrator.worker.search_attributes import ensure_search_attributes
from orchestrator.worker.waking import SignalWaker, recover_later
from orchestrator.workflow.converter import worker_data_converter
from orchestrator.workflow.hosts import hosts_of, sandbox_for, sandbox_problem
from orchestrator.workflow.system.lookup import SagaLookups
from orchestrator.workflow.system.publish import PublishEvent
from orchestrator.workflow.system.recovery import SagaRecovery
from orchestrator.workflow.system.scheduled import ScheduledPublish

DRAIN = timedelta(seconds=20)
"""How long steps in progress may take to end before they are cut off (and taken up by another worker)."""
_TASKS_AT_ONCE = 16
"""Workflow tasks that one process works on; others wait at the server, where no clock runs. With Temporal's
own hundred, executions that began at once ran out of their tasks' five seconds and began again: a hundred sagas took 34
seconds and 30 of CPU, and with this 12 and 9."""
EXIT_MISUSE = 2
EXIT_UNREACHABLE = 3
EXIT_BUG = 70


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything a worker needs, checked."""

    client: Client
    database: Database
    catalog: Catalog
    others: Mapping[str, Database] = field(default_factory=dict[str, Database])

    @property
    def databases(self) -> Databases:
        """Home and the others."""
        return Databases(self.database, self.others)


class Manager:
    """The worker process of an application.

        if __name__ == "__main__":
            Manager().main()

    Args:
        settings: by default from the environment and `pyproject.toml`.
        catalog: by default whatever the settings' packages declare.
        steps: what activities and waves call; a test may give one that counts.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        catalog: Catalog | None = None,
        steps: type[StoreSteps] = StoreSteps,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._steps = steps
        self._supervised: Supervised | None = None

    @cached_property
    def settings(self) -> Settings:
        """What was given, or else read at first use: so `main` reports an invalid one.

        Raises:
            InvalidSettings: a setting has a wrong value.
        """
        return self._settings or Settings()

    def main(self, arguments: Sequence[str] | None = None) -> NoReturn:
        """Read the options, run until told to stop, then exit the process.

        A supervisor runs as many processes as `--processes` says, each by the command that started this one; with
        `--no-supervisor` this process works itself. Exit codes: 0 drained, 1 one of them had to be killed, 2 faults of
        definition, of settings or of options, 3 unreachable, 4 a blocked process ended itself, 70 an error of the
        engine, with its traceback.

        Args:
            arguments: by default this process's.
        """
        open_standard_streams()
        supervised = Supervised.take()
        if supervised is not None:
            sys.exit(self._work(supervised))
        try:
            processes = self.settings.processes
        except InvalidSettings as fault:
            sys.exit(_told(str(fault), EXIT_MISUSE))
        run_command(self._start, arguments, program=Path(sys.argv[0]).name, processes=processes)
        sys.exit(0)

    def _start(self, processes: int, supervisor: bool) -> int:
        if not supervisor:
            return self._work()
        limit = self.settings.loop_blocked_limit
        # The process's own watchdog comes first: it can say what blocks.
        heart_limit = max(HEART_LIMIT, limit + 3) if limit else 0.0
        return Supervisor(own_command(), processes, drain=DRAIN.total_seconds(), heart_limit=heart_limit).run()

    def _work(self, supervised: Supervised | None = None) -> int:
        """Be a worker process, with a watchdog; returns its exit code."""
        self._supervised = supervised
        try:
            logging.basicConfig(level=self.settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
            asyncio.run(self._watched())
        except (DefinitionError, InvalidSettings) as fault:
            return _told(str(fault), EXIT_MISUSE)
        except OrchestratorError as fault:
            return _told(str(fault), EXIT_UNREACHABLE)
        except Exception as fault:
            traceback.print_exception(fault)
            return EXIT_BUG
        return 0

    async def _watched(self) -> None:
        heart = Heart(self._supervised.pipe if self._supervised else None)
        beating = asyncio.create_task(heart.beat())
        threads = WorkflowThreads()
        stop = asyncio.Event()
        limit = self.settings.loop_blocked_limit
        watchdog = Watchdog(heart, threads, limit=limit, stop=stop) if limit else None

        def is_ready() -> None:
            spare_collections()
            heart.say(READY)
            if watchdog is not None:
                watching.enter_context(watchdog)

        with ExitStack() as watching:
            try:
                await self.run(stop, threads=threads, when_ready=is_ready)
            finally:
                beating.cancel()
                threads.shutdown(wait=False)
        if watchdog is not None and watchdog.has_barked:
            # Not `sys.exit`, which waits for the stuck thread; the watchdog says what it is and leaves.
            threading.Event().wait()

    async def run(
        self,
        stop: asyncio.Event | None = None,
        *,
        threads: ThreadPoolExecutor | None = None,
        when_ready: Callable[[], None] | None = None,
    ) -> None:
        """Run until `stop` is set, or SIGTERM or Ctrl-C comes; then drain. A second Ctrl-C ends at once.

        Args:
            stop: set by whoever runs this beside other things.
            threads: where workflow code runs; by default Temporal's own.
            when_ready: called once work is taken.

        Raises:
            DefinitionError: what the application declares has faults.
            Unreachable: Temporal or the database cannot be reached.
        """
        ready = await self.prepare()
        task_queue, stop = self.settings.task_queue, stop or asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            # The relay ends last: what ends while the worker drains is sent, and who waited for its locks is woken.
            async with (
                self.relaying(ready),
                self.waker(ready) as waker,
                self.worker(ready, waker, workflow_task_executor=threads),
            ):
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, _stopping, stop, number)
                await self.schedule_recovery(ready)
                if when_ready is not None:
                    when_ready()
                self._say(ready)
                async with self.purging(ready), comparing_clocks(ready.databases, ready.client, task_queue):
                    await stop.wait()
                if self._supervised is None:
                    write_line("Draining: steps in progress end, nothing new begins. Ctrl-C again ends at once.")
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            await fault_log_of(ready.databases).close()
            await ready.databases.close()
        if self._supervised is None:
            write_line("Drained.")

    async def prepare(self) -> Ready:
        """Find what there is, reach what is needed, create what is missing.

        Raises:
            DefinitionError: what the application declares has faults.
            Unreachable: Temporal or the database cannot be reached.
        """
        catalog = self._catalog or Catalog.discover(self.settings.packages)
        tables = SQLModel.metadata
        faults = [*problems_of_databases(catalog.operations.values(), tables, self.settings.databases)]
        if faults := [*faults, *problems_of_tables(tables)]:
            raise DefinitionError(faults)
        databases = Databases.at(
            self.settings.resolved_database_url, self.settings.databases, pool_size=self.settings.pool_size
        )
        await databases.check()
        client = await connect_temporal(self.settings, data_converter=worker_data_converter)
        if lost := await ensure_search_attributes(client):
            _remark(lost)
        cluster = await client.workflow_service.get_cluster_info(GetClusterInfoRequest())
        for name, database in databases:
            await migrate(
                database,
                name=name,
                namespace=client.namespace,
                cluster_id=cluster.cluster_id,
                application=tables if self.settings.create_tables else None,
                migrations=self.settings.migrations,
            )
        await check_shared(databases)
        return Ready(client, databases.home, catalog, databases.others)

    def waker(self, ready: Ready) -> SignalWaker:
        """Wakes who waited for a lock that a saga gives back."""
        recover = self.recovery(ready).recover if self.settings.recovery_interval else recover_later
        return SignalWaker(ready.client, recover)

    def worker(self, ready: Ready, waker: SignalWaker | None = None, **options: Any) -> Worker:
        """A Temporal worker for everything in the catalog; `options` go to Temporal's `Worker`.

        Raises:
            DefinitionError: an orchestrator's module cannot be loaded in the sandbox.
        """
        try:
            return self._worker(ready, waker or self.waker(ready), **options)
        except RuntimeError as fault:
            if (problem := sandbox_problem(ready.catalog, fault)) is None:
                raise
            raise DefinitionError([problem]) from fault

    def _worker(self, ready: Ready, waker: SignalWaker, **options: Any) -> Worker:
        shorten_library_logs()
        steps = self._steps(ready.databases, ready.catalog, waker)
        return Worker(
            ready.client,
            task_queue=self.settings.task_queue,
            workflows=[*hosts_of(ready.catalog), PublishEvent, SagaLookups, SagaRecovery, ScheduledPublish],
            activities=[
                *activities_of(ready.catalog, steps),
                wave_activity(steps, ready.client, self.settings.task_queue),
                answer_activity(ready.databases),
                recovery_activity(self.recovery(ready)),
                publish_activity(ready.client, ready.catalog, self.settings.task_queue),
                message_activity(ready.client, ready.catalog, ready.database, self.settings.task_queue),
            ],
            workflow_runner=sandbox_for(ready.catalog),
            graceful_shutdown_timeout=DRAIN,
            sticky_queue_schedule_to_start_timeout=timedelta(seconds=3),
            max_concurrent_activities=self.settings.max_concurrent_steps,
            max_concurrent_workflow_tasks=_TASKS_AT_ONCE,
            # Heartbeats are how a dead worker is noticed; the default holds them back for longer than that.
            max_heartbeat_throttle_interval=timedelta(seconds=1),
            default_heartbeat_throttle_interval=timedelta(seconds=1),
            **options,
        )

    def relaying(self, ready: Ready, limits: RelayLimits | None = None) -> AbstractAsyncContextManager[None]:
        """While this is open, what stands in the outbox of each database is sent."""
        runtime = ready.client.service_client.config.runtime or Runtime.default()
        deliver = Delivery(ready.client, self.settings.task_queue)
        return relaying(
            ready.databases,
            ready.catalog,
            deliver,
            meter=runtime.metric_meter,
            limits=limits,
            check_belonging=self.recovery(ready).check_belonging,
        )

    def recovery(self, ready: Ready) -> Recovery:
        """Recovery for everything in the catalog."""
        return Recovery(
            ready.client,
            ready.databases,
            ready.catalog,
            task_queue=self.settings.task_queue,
            limits=Limits.of(self.settings),
        )

    async def schedule_recovery(self, ready: Ready) -> None:
        """Have recovery run by itself. What stands in the way is told in a line, and the worker goes on."""
        try:
            await self.recovery(ready).check_belonging()
        except RecoveryRefused as fault:
            _remark(f"Recovery is refused. {fault}")
        interval = timedelta(seconds=self.settings.recovery_interval)
        try:
            await ensure_schedule(ready.client, self.settings.task_queue, interval)
        except RPCError as fault:
            _remark(
                f"The schedule {schedule_id(self.settings.task_queue)} cannot be set up ({fault.message}), so nothing "
                "is recovered by itself. Let the worker manage schedules, or run now and then: orchestrator recover"
            )
        for queue in await other_queues(ready.client, ready.catalog.orchestrators, self.settings.task_queue):
            _remark(f"{queue}")

    @asynccontextmanager
    async def purging(self, ready: Ready) -> AsyncGenerator[None]:
        """While it lasts, what is older than the retention is purged."""
        retention = timedelta(days=self.settings.retention)
        purging = asyncio.create_task(purge_by_itself(ready.databases, retention)) if retention else None
        try:
            yield
        finally:
            if purging is not None:
                purging.cancel()
                await asyncio.gather(purging, return_exceptions=True)

    def _say(self, ready: Ready) -> None:
        if self._supervised is not None and self._supervised.number > 1:
            number, processes = self._supervised.number, self._supervised.processes
            write_line(f"Worker ready: process {number} of {processes}, pid {os.getpid()}")
            return
        others = "".join(f"    {name:<13}{database.shown}\n" for name, database in ready.others.items())
        orchestrators = ", ".join(ready.catalog.orchestrators) or "none: add a class to workflows/"
        write_line(
            f"Worker ready on task queue {self.settings.task_queue!r}, namespace {ready.client.namespace!r}\n"
            f"  orchestrators  {orchestrators}\n"
            f"  operations     {len(ready.catalog.operations)}\n"
            f"  database       {ready.database.shown}\n"
            f"{others}"
            f"  Temporal       {ready.client.service_client.config.target_host}\n"
            f"  Web UI         {self.settings.resolved_ui_url}\n"
            "Ctrl-C drains."
        )


def spare_collections() -> None:
    """Keep the garbage collector from walking all that is loaded, again and again: a tenth of a worker's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def _stopping(stop: asyncio.Event, number: signal.Signals) -> None:
    stop.set()
    asyncio.get_running_loop().remove_signal_handler(number)  # the next one does what it always did


def _remark(text: str) -> None:
    write_line(text, to_stderr=True)


def _told(message: str, code: int) -> int:
    write_line(message, to_stderr=True)
    return code
