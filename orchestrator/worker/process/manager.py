"""The manager: runs an application's worker process and its supervisor, and drains on Ctrl-C and SIGTERM."""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from temporalio.runtime import Runtime
from temporalio.service import RPCError
from temporalio.worker import Worker

from orchestrator.client.executions.task_queues import other_queues
from orchestrator.definition.catalog import Catalog
from orchestrator.errors import DefinitionError, OrchestratorError
from orchestrator.settings import InvalidSettings, Settings
from orchestrator.store.belonging import RecoveryRefused
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.telemetry.streams import open_standard_streams, write_line
from orchestrator.worker.activities import activities_of
from orchestrator.worker.clocks import comparing_clocks
from orchestrator.worker.fault_log import fault_log_of, shorten_library_logs
from orchestrator.worker.lookup import lookup_activity
from orchestrator.worker.partition.activity import wave_activity
from orchestrator.worker.process.command_line import run_command
from orchestrator.worker.process.heart import READY, Heart, Supervised
from orchestrator.worker.process.prepare import Ready, prepare
from orchestrator.worker.process.supervisor import HEART_LIMIT, Supervisor, own_command
from orchestrator.worker.process.watchdog import Watchdog
from orchestrator.worker.process.workflow_threads import WorkflowThreads
from orchestrator.worker.recovery.limits import Limits
from orchestrator.worker.recovery.schedule import ensure_schedule, schedule_id
from orchestrator.worker.recovery.sweep import Recovery, recovery_activity
from orchestrator.worker.relay.delivery import Delivery
from orchestrator.worker.relay.limits import RelayLimits
from orchestrator.worker.relay.publish import message_activity
from orchestrator.worker.relay.relay import relaying
from orchestrator.worker.retention import purge_by_itself
from orchestrator.worker.scheduled import publish_activity
from orchestrator.worker.waking import SignalWaker, recover_later
from orchestrator.workflow.hosts import hosts_of, sandbox_faults, sandbox_for
from orchestrator.workflow.system.lookup import SagaLookups
from orchestrator.workflow.system.publish import PublishEvent
from orchestrator.workflow.system.recovery import SagaRecovery
from orchestrator.workflow.system.scheduled import ScheduledPublish

DRAIN = timedelta(seconds=20)
"""How long steps in progress may take to end before they are cancelled and another worker retries them."""
_TASKS_AT_ONCE = 16
"""The maximum number of workflow tasks that one process works on. Others wait at the server, where no timeout runs.
With Temporal's default of 100, executions that began together exceeded their tasks' five seconds and began again: a
hundred sagas took 34 seconds and 30 seconds of CPU time, instead of 12 and 9."""
READY_LINE = "Worker ready"
"""The beginning of the line that a worker prints once it accepts work."""
LAST_READY_LINE = "Ctrl-C drains."
EXIT_MISUSE = 2
"""Exit code for faults in definitions, settings or options."""
EXIT_UNREACHABLE = 3
"""Exit code if Temporal or a database cannot be reached."""
EXIT_BUG = 70
"""Exit code for a bug in the engine."""


class Manager:
    """The worker process of an application.

        if __name__ == "__main__":
            Manager().main()

    Args:
        settings: the settings, by default from the environment and `pyproject.toml`.
        catalog: the orchestrators and operations, by default those that the settings' packages declare.
        steps: the class through which activities and waves use the databases. Tests replace it.
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
        """The worker's settings. They are read at first use, so that `main` can report an invalid setting.

        Raises:
            InvalidSettings: a setting has a wrong value.
        """
        return self._settings or Settings()

    def main(self, arguments: Sequence[str] | None = None) -> NoReturn:
        """Read the options, run until stopped, then exit the process.

        A supervisor runs the number of processes that `--processes` sets, each with the command that started this one.
        With `--no-supervisor` this process works itself. Exit codes: 0 after a drain; 1 if a process had to be killed;
        2 for a fault in definitions, settings or options; 3 if Temporal or a database cannot be reached; 4 if a
        blocked process ended itself; 70 for a bug in the engine, with its traceback.

        Args:
            arguments: the command-line arguments, by default this process's.
        """
        open_standard_streams()
        try:
            processes = self.settings.processes
        except InvalidSettings as fault:
            sys.exit(_report_fault(fault, EXIT_MISUSE))
        run_command(self.start, arguments, program=Path(sys.argv[0]).name, processes=processes)
        sys.exit(0)

    def start(self, processes: int, supervisor: bool, *, command: Sequence[str] | None = None) -> int:
        """Run a supervisor with its processes, or work in this process, until stopped.

        A process that a supervisor has started always works itself, whatever the arguments are.

        Args:
            processes: the number of worker processes.
            supervisor: whether to run a supervisor.
            command: the command that starts a worker process, by default the one that started this process.

        Returns:
            The exit code, as described for `main`.
        """
        supervised = Supervised.take()
        if supervised is not None or not supervisor:
            return self._work(supervised)
        limit = self.settings.loop_blocked_limit
        # The limit is longer than that of the process's own watchdog, because only the watchdog can report what blocks.
        heart_limit = max(HEART_LIMIT, limit + 3) if limit else 0.0
        drain = DRAIN.total_seconds()
        return Supervisor(command or own_command(), processes, drain=drain, heart_limit=heart_limit).run()

    def _work(self, supervised: Supervised | None = None) -> int:
        """Run this process as a worker with a watchdog. Return its exit code."""
        self._supervised = supervised
        try:
            logging.basicConfig(level=self.settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
            asyncio.run(self._run_watched())
        except (DefinitionError, InvalidSettings) as fault:
            return _report_fault(fault, EXIT_MISUSE)
        except OrchestratorError as fault:
            return _report_fault(fault, EXIT_UNREACHABLE)
        except Exception as fault:
            traceback.print_exception(fault)
            return EXIT_BUG
        return 0

    async def _run_watched(self) -> None:
        heart = Heart(self._supervised.pipe if self._supervised else None)
        beating = asyncio.create_task(heart.beat())
        threads = WorkflowThreads()
        stop = asyncio.Event()
        limit = self.settings.loop_blocked_limit
        watchdog = Watchdog(heart, threads, limit=limit, stop=stop) if limit else None

        def is_ready() -> None:
            spare_collections()
            heart.send(READY)
            if watchdog is not None:
                watching.enter_context(watchdog)

        with ExitStack() as watching:
            try:
                await self.run(stop, threads=threads, when_ready=is_ready)
            finally:
                beating.cancel()
                threads.shutdown(wait=False)
        if watchdog is not None and watchdog.has_barked:
            # `sys.exit` would wait for the blocked thread. The watchdog reports it and ends the process.
            threading.Event().wait()

    async def run(
        self,
        stop: asyncio.Event | None = None,
        *,
        threads: ThreadPoolExecutor | None = None,
        when_ready: Callable[[], None] | None = None,
    ) -> None:
        """Run until `stop` is set or SIGTERM or Ctrl-C arrives, then drain. A second Ctrl-C stops immediately.

        Args:
            stop: the event to set to stop the worker from code.
            threads: the threads in which workflow code runs, by default Temporal's own.
            when_ready: called once the worker accepts work.

        Raises:
            DefinitionError: the application's definitions have faults.
            Unreachable: Temporal or a database cannot be reached.
        """
        ready = await self.prepare()
        task_queue, stop = self.settings.task_queue, stop or asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            # The waker and the relay end after the worker, so that outcomes of draining sagas still wake others and are
            # sent.
            async with (
                self.relaying(ready),
                self.waker(ready) as waker,
                self.worker(ready, waker, workflow_task_executor=threads),
            ):
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, _begin_drain, stop, number)
                await self.schedule_recovery(ready)
                if when_ready is not None:
                    when_ready()
                self._print_ready(ready)
                async with self.purging(ready), comparing_clocks(ready.databases, ready.client, task_queue):
                    await stop.wait()
                if self._supervised is None:
                    write_line(
                        "Draining: steps in progress end, no new ones begin. Press Ctrl-C again to stop immediately."
                    )
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            await fault_log_of(ready.databases).close()
            await ready.databases.close()
        if self._supervised is None:
            write_line("Drained.")

    async def prepare(self) -> Ready:
        """Find the orchestrators, connect to Temporal and the databases, and create what is missing.

        Raises:
            DefinitionError: the application's definitions have faults.
            Unreachable: Temporal or a database cannot be reached.
        """
        return await prepare(self.settings, self._catalog)

    def waker(self, ready: Ready) -> SignalWaker:
        """Return what wakes the sagas waiting for a lock that another saga has released."""
        recover = self.recovery(ready).recover if self.settings.recovery_interval else recover_later
        return SignalWaker(ready.client, recover)

    def worker(self, ready: Ready, waker: SignalWaker | None = None, **options: Any) -> Worker:
        """Return a Temporal worker for everything in the catalog.

        Args:
            ready: the checked parts of the worker.
            waker: wakes the sagas that wait for a released lock, by default by signals.
            options: further arguments of Temporal's `Worker`.

        Raises:
            DefinitionError: an orchestrator's module cannot be loaded in the sandbox.
        """
        with sandbox_faults(ready.catalog):
            return self._worker(ready, waker or self.waker(ready), **options)

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
                lookup_activity(ready.databases),
                recovery_activity(self.recovery(ready)),
                publish_activity(ready.client, ready.catalog, self.settings.task_queue),
                message_activity(ready.client, ready.catalog, ready.database, self.settings.task_queue),
            ],
            workflow_runner=sandbox_for(ready.catalog),
            graceful_shutdown_timeout=DRAIN,
            sticky_queue_schedule_to_start_timeout=timedelta(seconds=3),
            max_concurrent_activities=self.settings.max_concurrent_steps,
            max_concurrent_workflow_tasks=_TASKS_AT_ONCE,
            # A dead worker is noticed by missing heartbeats, and the default throttle is longer than their timeout.
            max_heartbeat_throttle_interval=timedelta(seconds=1),
            default_heartbeat_throttle_interval=timedelta(seconds=1),
            **options,
        )

    def relaying(self, ready: Ready, limits: RelayLimits | None = None) -> AbstractAsyncContextManager[None]:
        """Send the outbox of each database while the context is open."""
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
        """Return recovery for everything in the catalog."""
        return Recovery(
            ready.client,
            ready.databases,
            ready.catalog,
            task_queue=self.settings.task_queue,
            limits=Limits.of(self.settings),
        )

    async def schedule_recovery(self, ready: Ready) -> None:
        """Set up the schedule that runs recovery. A failure is printed, and the worker goes on."""
        try:
            await self.recovery(ready).check_belonging()
        except RecoveryRefused as fault:
            write_line(f"Recovery is refused. {fault}", to_stderr=True)
        interval = timedelta(seconds=self.settings.recovery_interval)
        try:
            await ensure_schedule(ready.client, self.settings.task_queue, interval)
        except RPCError as fault:
            write_line(
                f"The schedule {schedule_id(self.settings.task_queue)} cannot be set up ({fault.message}), so stalled "
                "sagas are not recovered automatically. Allow the worker to manage schedules, or regularly run: "
                "orchestrator recover",
                to_stderr=True,
            )
        for queue in await other_queues(ready.client, ready.catalog.orchestrators, self.settings.task_queue):
            write_line(f"{queue}", to_stderr=True)

    @asynccontextmanager
    async def purging(self, ready: Ready) -> AsyncGenerator[None]:
        """Purge what is older than the retention while the context is open."""
        retention = timedelta(days=self.settings.retention)
        purging = asyncio.create_task(purge_by_itself(ready.databases, retention)) if retention else None
        try:
            yield
        finally:
            if purging is not None:
                purging.cancel()
                await asyncio.gather(purging, return_exceptions=True)

    def _print_ready(self, ready: Ready) -> None:
        if self._supervised is not None and self._supervised.number > 1:
            number, processes = self._supervised.number, self._supervised.processes
            write_line(f"{READY_LINE}: process {number} of {processes}, pid {os.getpid()}")
            return
        others = "".join(f"    {name:<13}{database.shown}\n" for name, database in ready.others.items())
        packages = ", ".join(self.settings.packages)
        orchestrators = ", ".join(ready.catalog.orchestrators) or f"none: add a class to one of the packages {packages}"
        write_line(
            f"{READY_LINE} on task queue {self.settings.task_queue!r}, namespace {ready.client.namespace!r}\n"
            f"  orchestrators  {orchestrators}\n"
            f"  operations     {len(ready.catalog.operations)}\n"
            f"  database       {ready.database.shown}\n"
            f"{others}"
            f"  Temporal       {ready.client.service_client.config.target_host}\n"
            f"  Web UI         {self.settings.resolved_ui_url}\n"
            f"{LAST_READY_LINE}"
        )


def spare_collections() -> None:
    """Stop the garbage collector from repeatedly scanning everything loaded, which takes a tenth of a worker's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def _begin_drain(stop: asyncio.Event, number: signal.Signals) -> None:
    stop.set()
    asyncio.get_running_loop().remove_signal_handler(number)  # so that a second signal ends the process


def _report_fault(fault: OrchestratorError, code: int) -> int:
    write_line(str(fault), to_stderr=True)
    return code
