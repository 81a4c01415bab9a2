"""The tables as a client reaches them: straight, or through a worker where it has no database.

Whoever waits asks again and again; this is one question, and how to ask it.
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
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.queries.lookup import answer
from orchestrator.store.recovery import RecoveryRefused, check_belonging
from orchestrator.workflow.system.lookup import LOOK, RUN, SagaLookups

_TASK_TIMEOUT = timedelta(seconds=5)
_QUESTIONS = 20
"""Questions that a client has workers answer at once; each is an execution."""
_closing: set["asyncio.Task[None]"] = set()


class LookupUnavailable(Unreachable):
    """They cannot be reached just now."""


class LookupSource(Protocol):
    """One question at a time, and an answer."""

    patience: float
    """Seconds that a question may take while there is nothing to tell."""
    pauses: tuple[float, float]
    """Seconds between two questions: the shortest and the longest."""
    are_near: bool
    """Whether a question costs little, and none is the worker's to answer."""

    async def ask(self, question: Lookup) -> LookupReply:
        """Ask.

        Raises:
            TablesAway: they cannot be reached just now.
            Unreachable: nor will they be, as things are set up.
        """
        ...

    async def close(self) -> None:
        """Let go of what was opened."""
        ...


class DatabaseLookup:
    """In the databases, by this process itself.

    Args:
        databases: home, and others whose outboxes are read.
    """

    patience = 0.0
    are_near = True
    pauses = (0.002, 0.1)

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._has_answered = False
        self._places = asyncio.Semaphore(databases.home.pool_size)

    async def ask(self, question: Lookup) -> LookupReply:
        """Ask."""
        try:
            # Any number may ask at once, and a pool refuses those that have waited long for a connection.
            async with self._places:
                told = await answer(self._databases, question)
        except (SQLAlchemyError, OSError) as fault:
            if (asking := asyncio.current_task()) is not None and asking.cancelling():
                # The cancel closed the connection under the query: SQLAlchemy reports that instead.
                raise asyncio.CancelledError from fault
            unreachable = self._databases.home.unreachable(fault)
            if not self._has_answered:
                # An address that is wrong is told; one that was right will answer again.
                raise unreachable from fault
            raise LookupUnavailable(str(unreachable)) from fault
        self._has_answered = True
        return told

    async def close(self) -> None:
        """Close the connections."""
        await self._databases.close()


class WorkerLookup:
    """By a worker, through Temporal: an execution of `SagaAnswers` for each question.

    Args:
        client: a connection.
        task_queue: the workers'.
    """

    patience = LOOK.total_seconds()
    are_near = False
    pauses = (0.01, 2.0)

    def __init__(self, client: Client, task_queue: str) -> None:
        self._client = client
        self._task_queue = task_queue
        self._places = asyncio.Semaphore(_QUESTIONS)

    async def ask(self, question: Lookup) -> LookupReply:
        """Ask; the execution of a question that nobody waits for any more is cancelled."""
        async with self._places:
            return await self._ask(question)

    async def _ask(self, question: Lookup) -> LookupReply:
        handle: WorkflowHandle[SagaLookups, LookupReply] | None = None
        try:
            handle = await self._client.start_workflow(
                SagaLookups.run,
                question,
                id=f"orchestrator-answers/{self._task_queue}/{uuid4()}",
                task_queue=self._task_queue,
                run_timeout=RUN,
                task_timeout=_TASK_TIMEOUT,
                static_summary="tells a client without a database what it waits for",
            )
            return await handle.result()
        except RPCError as fault:
            kind = Unreachable if is_fatal(fault) else LookupUnavailable
            raise kind(f"Temporal does not let a worker be asked ({fault.message})") from fault
        except WorkflowFailureError as fault:
            raise LookupUnavailable("no worker has answered: does one run, and does it reach its database?") from fault
        except asyncio.CancelledError:
            if handle is not None:
                task = asyncio.create_task(_cancel(handle))
                _closing.add(task)
                task.add_done_callback(_closing.discard)
            raise

    async def close(self) -> None:
        """Nothing was opened."""
        await asyncio.gather(*_closing, return_exceptions=True)


async def is_of(database: Database, client: Client) -> bool:
    """Whether a database's sagas run on this Temporal, as far as it says."""
    try:
        cluster = await client.workflow_service.get_cluster_info(GetClusterInfoRequest())
        await check_belonging(database, client.namespace, cluster.cluster_id)
    except RecoveryRefused:
        return False
    except (SQLAlchemyError, OSError, RPCError):
        return True  # nothing is known against it
    return True


async def _cancel(handle: WorkflowHandle[SagaLookups, LookupReply]) -> None:
    with contextlib.suppress(RPCError):
        await handle.cancel()
