"""The manager: finds every orchestrator and operation, registers them, runs them, drains on Ctrl-C and SIGTERM."""

import asyncio
import logging
import signal
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlmodel import SQLModel
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import GetClusterInfoRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from orchestrator.catalog import Catalog
from orchestrator.client.connection import connect_temporal
from orchestrator.errors import DefinitionError, OrchestratorError, Unreachable
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate
from orchestrator.store.recovery import RecoveryRefused
from orchestrator.store.steps import StoreSteps
from orchestrator.worker.activities import activities_of
from orchestrator.worker.recovery import Recovery, recovery_activity
from orchestrator.worker.schedule import ensure_schedule, schedule_id
from orchestrator.worker.sweeping import Limits
from orchestrator.workflow.attributes import SEARCH_ATTRIBUTES
from orchestrator.workflow.converter import worker_data_converter
from orchestrator.workflow.hosts import hosts_of, sandbox_for
from orchestrator.workflow.recovery import SagaRecovery

DRAIN = timedelta(seconds=20)
"""How long steps in progress may take to end before they are cut off (and taken up by another worker)."""
EXIT_MISUSE = 2
EXIT_UNREACHABLE = 3


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything a worker needs, checked."""

    client: Client
    database: Database
    catalog: Catalog


class Manager:
    """The worker process of an application.

        if __name__ == "__main__":
            Manager().main()

    Args:
        settings: by default from the environment and `pyproject.toml`.
        catalog: by default whatever the settings' packages declare.
    """

    def __init__(self, settings: Settings | None = None, *, catalog: Catalog | None = None) -> None:
        self.settings = settings or Settings()
        self._catalog = catalog

    def main(self) -> None:
        """Run until told to stop, then exit the process: 0 drained, 2 faults of definition, 3 unreachable."""
        logging.basicConfig(
            level=self.settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        try:
            asyncio.run(self.run())
        except DefinitionError as fault:
            sys.exit(_told(str(fault), EXIT_MISUSE))
        except OrchestratorError as fault:
            sys.exit(_told(str(fault), EXIT_UNREACHABLE))

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Run until `stop` is set, or SIGTERM or Ctrl-C comes; then drain. A second Ctrl-C ends at once.

        Raises:
            DefinitionError: what the application declares has faults.
            Unreachable: Temporal or the database cannot be reached.
        """
        ready = await self.prepare()
        stop = stop or asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            async with self.worker(ready):
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, _stopping, stop, number)
                await self.schedule_recovery(ready)
                self._say(ready)
                await stop.wait()
                print("Draining: steps in progress end, nothing new begins. Ctrl-C again ends at once.", flush=True)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            await ready.database.close()
        print("Drained.", flush=True)

    async def prepare(self) -> Ready:
        """Find what there is, reach what is needed, create what is missing.

        Raises:
            DefinitionError: what the application declares has faults.
            Unreachable: Temporal or the database cannot be reached.
        """
        catalog = self._catalog or Catalog.discover(self.settings.packages)
        database = Database(self.settings.resolved_database_url)
        await database.check()
        client = await connect_temporal(self.settings, data_converter=worker_data_converter)
        await ensure_search_attributes(client)
        cluster = await client.workflow_service.get_cluster_info(GetClusterInfoRequest())
        await migrate(
            database,
            namespace=client.namespace,
            cluster_id=cluster.cluster_id,
            application=SQLModel.metadata if self.settings.create_tables else None,
        )
        return Ready(client, database, catalog)

    def worker(self, ready: Ready, **options: Any) -> Worker:
        """A Temporal worker for everything in the catalog; `options` go to Temporal's `Worker`."""
        return Worker(
            ready.client,
            task_queue=self.settings.task_queue,
            workflows=[*hosts_of(ready.catalog), SagaRecovery],
            activities=[
                *activities_of(ready.catalog, StoreSteps(ready.database, ready.catalog)),
                recovery_activity(self.recovery(ready)),
            ],
            workflow_runner=sandbox_for(ready.catalog),
            graceful_shutdown_timeout=DRAIN,
            sticky_queue_schedule_to_start_timeout=timedelta(seconds=3),
            max_concurrent_activities=self.settings.max_concurrent_steps,
            # Heartbeats are how a dead worker is noticed; the default holds them back for longer than that.
            max_heartbeat_throttle_interval=timedelta(seconds=1),
            default_heartbeat_throttle_interval=timedelta(seconds=1),
            **options,
        )

    def recovery(self, ready: Ready) -> Recovery:
        """Recovery for everything in the catalog."""
        return Recovery(
            ready.client,
            ready.database,
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

    def _say(self, ready: Ready) -> None:
        orchestrators = ", ".join(ready.catalog.orchestrators) or "none: add a class to workflows/"
        print(
            f"Worker ready on task queue {self.settings.task_queue!r}, namespace {ready.client.namespace!r}\n"
            f"  orchestrators  {orchestrators}\n"
            f"  operations     {len(ready.catalog.operations)}\n"
            f"  database       {ready.database.shown}\n"
            f"  Temporal       {ready.client.service_client.config.target_host}\n"
            f"  Web UI         {self.settings.resolved_ui_url}\n"
            "Ctrl-C drains.",
            flush=True,
        )


async def ensure_search_attributes(client: Client) -> None:
    """Register the engine's search attributes in the client's namespace, if they are missing.

    Raises:
        Unreachable: the server does not let us; the message gives the command for whoever may.
    """
    names = [key.name for key in SEARCH_ATTRIBUTES]
    try:
        known = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
        missing = [name for name in names if name not in known.custom_attributes]
        if not missing:
            return
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=client.namespace,
                search_attributes=dict.fromkeys(missing, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD),
            )
        )
    except RPCError as fault:
        if fault.status is RPCStatusCode.ALREADY_EXISTS:
            return
        options = " ".join(f"--name {name} --type Keyword" for name in names)
        raise Unreachable(
            f"The search attributes {', '.join(names)} cannot be created ({fault.message}). Have someone who may run: "
            f"temporal operator search-attribute create --namespace {client.namespace} {options}"
        ) from fault


def _stopping(stop: asyncio.Event, number: signal.Signals) -> None:
    stop.set()
    asyncio.get_running_loop().remove_signal_handler(number)  # the next one does what it always did


def _remark(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _told(message: str, code: int) -> int:
    print(message, file=sys.stderr, flush=True)
    return code
