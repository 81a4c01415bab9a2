"""Sends one lookup: directly to the databases, or to a worker if the client has no database.

`polling` repeats lookups for callers that wait.
"""

import asyncio
import contextlib
from datetime import timedelta
from typing import Protocol
from uuid import uuid4

from sqlalchemy.exc import SQLAlchemyError
from temporalio.api.workflowservice.v1 import GetClusterInfoRequest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.service import RPCError

from orchestrator.client.outcomes.execution_outcome import is_fatal
from orchestrator.errors import Unreachable
from orchestrator.protocol.lookup import Lookup, LookupReply
from orchestrator.store.belonging import RecoveryRefused, check_belonging
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.queries.lookup import answer
from orchestrator.workflow.system.lookup import LOOKUP_TIMEOUT, RUN_TIMEOUT, SagaLookups

_TASK_TIMEOUT = timedelta(seconds=5)
_CONCURRENT_LOOKUPS = 20
"""How many lookups a client sends to workers concurrently; each is an execution."""
_closing: set["asyncio.Task[None]"] = set()


class LookupUnavailable(Unreachable):
    """The source of lookups cannot be reached at the moment."""


class LookupSource(Protocol):
    """Answers lookups."""

    patience: float
    """How many seconds a lookup may wait for news before it returns without any."""
    pauses: tuple[float, float]
    """The shortest and the longest pause between two lookups, in seconds."""
    is_local: bool
    """Whether this process answers lookups itself, so that they are cheap."""

    async def ask(self, lookup: Lookup) -> LookupReply:
        """Answer a lookup.

        Raises:
            LookupUnavailable: the source cannot be reached at the moment.
            Unreachable: the source cannot be reached because of a wrong configuration.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class DatabaseLookup:
    """Answers lookups from the databases, in this process.

    Args:
        databases: home, and the remote databases, whose outboxes are read too.
    """

    patience = 0.0
    is_local = True
    pauses = (0.002, 0.1)

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._has_answered = False
        self._slots = asyncio.Semaphore(databases.home.pool_size)

    async def ask(self, lookup: Lookup) -> LookupReply:
        """Answer a lookup."""
        try:
            # Queue here, because the pool raises an error when a lookup has waited too long for a connection.
            async with self._slots:
                reply = await answer(self._databases, lookup)
        except (SQLAlchemyError, OSError) as fault:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                # The cancellation closed the connection during the query, and SQLAlchemy reported that error instead.
                raise asyncio.CancelledError from fault
            unreachable = self._databases.home.unreachable(fault)
            if not self._has_answered:
                # The address may be wrong. Once it has answered, it is known to be right, and the outage is temporary.
                raise unreachable from fault
            raise LookupUnavailable(str(unreachable)) from fault
        self._has_answered = True
        return reply

    async def close(self) -> None:
        """Close the connections."""
        await self._databases.close()


class WorkerLookup:
    """Has workers answer lookups, through Temporal, with one execution of `SagaLookups` per lookup.

    Args:
        client: a connection to Temporal.
        task_queue: the workers' task queue.
    """

    patience = LOOKUP_TIMEOUT.total_seconds()
    is_local = False
    pauses = (0.01, 2.0)

    def __init__(self, client: Client, task_queue: str) -> None:
        self._client = client
        self._task_queue = task_queue
        self._slots = asyncio.Semaphore(_CONCURRENT_LOOKUPS)

    async def ask(self, lookup: Lookup) -> LookupReply:
        """Answer a lookup; if the caller is cancelled, the execution is cancelled too."""
        async with self._slots:
            return await self._ask(lookup)

    async def _ask(self, lookup: Lookup) -> LookupReply:
        handle: WorkflowHandle[SagaLookups, LookupReply] | None = None
        try:
            handle = await self._client.start_workflow(
                SagaLookups.run,
                lookup,
                id=f"orchestrator-lookups/{self._task_queue}/{uuid4()}",
                task_queue=self._task_queue,
                run_timeout=RUN_TIMEOUT,
                task_timeout=_TASK_TIMEOUT,
                static_summary="answers a lookup of a client without a database",
            )
            return await handle.result()
        except RPCError as fault:
            kind = Unreachable if is_fatal(fault) else LookupUnavailable
            raise kind(f"The lookup could not be sent to a worker through Temporal ({fault.message})") from fault
        except WorkflowFailureError as fault:
            raise LookupUnavailable(
                "No worker has answered the lookup. Check that a worker runs and that it reaches its database"
            ) from fault
        except asyncio.CancelledError:
            if handle is not None:
                cancelling = asyncio.create_task(_cancel(handle))
                _closing.add(cancelling)
                cancelling.add_done_callback(_closing.discard)
            raise

    async def close(self) -> None:
        """Wait for the cancellation requests that are still being sent."""
        await asyncio.gather(*_closing, return_exceptions=True)


async def is_of(database: Database, client: Client) -> bool:
    """Whether a database's sagas run on this Temporal server; True if that cannot be determined."""
    try:
        cluster = await client.workflow_service.get_cluster_info(GetClusterInfoRequest())
        await check_belonging(database, client.namespace, cluster.cluster_id)
    except RecoveryRefused:
        return False
    except (SQLAlchemyError, OSError, RPCError):
        return True  # no evidence against it
    return True


async def _cancel(handle: WorkflowHandle[SagaLookups, LookupReply]) -> None:
    with contextlib.suppress(RPCError):
        await handle.cancel()
