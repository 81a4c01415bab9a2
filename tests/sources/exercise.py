"""Sends a plan through all sources at once and waits until every saga and every dead letter has been recorded."""

import asyncio
from collections.abc import Callable
from time import monotonic

from sqlalchemy import func, select
from temporalio.client import Client

from orchestrator.protocol.commands import Phase
from orchestrator.protocol.names import is_partition
from orchestrator.protocol.reserved_names import PUBLISH_EVENT_WORKFLOW
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_dead_letter
from tests.sources.application import CATALOG
from tests.sources.audit import Books, Findings, audit
from tests.sources.plan import Plan, Sending
from tests.sources.senders import Senders

_AT_ONCE = 40
_POLL_INTERVAL = 0.25
_STALL_LIMIT = 60.0
"""Seconds without progress after which the remaining sagas count as wedged."""


class Exercise:
    """Sends everything and checks the result.

    Args:
        plan: what is sent.
        senders: one sender per source.
        client: lists the executions that are still running.
        database: holds the sagas and dead letters.
        task_queue: the workers' task queue.
        say: reports progress.
    """

    def __init__(
        self,
        plan: Plan,
        senders: Senders,
        client: Client,
        database: Database,
        *,
        task_queue: str,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._plan = plan
        self._senders = senders
        self._client = client
        self._database = database
        self._task_queue = task_queue
        self._say = say
        self._progress = (0, 0)

    async def run(self) -> Findings:
        """Send, wait and check."""
        # An id is reused only after its first event has been accepted, so that it is certain which of the two counts.
        first = [sending for sending in self._plan.sendings if not sending.after]
        later = [sending for sending in self._plan.sendings if sending.after]
        await self._send(first)
        self._say(f"{len(first)} messages are sent")
        letters = sum(len(sending.letters) for sending in self._plan.bad if not sending.after)
        await self._wait_for_ends(letters)
        await self._send(later)
        await self._wait_for_ends(sum(len(sending.letters) for sending in self._plan.bad))
        running, failing = await self._wait_for_executions(), await self._executions(_FAILING)
        return audit(self._plan, await Books.of(self._database), running=running, failing=failing)

    async def _send(self, sendings: list[Sending]) -> None:
        slots = asyncio.Semaphore(_AT_ONCE)
        sent = 0

        async def send(sending: Sending) -> None:
            nonlocal sent
            async with slots:
                await self._senders.send(sending)
            sent += 1
            if sent % 1_000 == 0:
                self._say(f"{sent} of {len(sendings)} are sent; {self._progress[0]} sagas have ended")

        async with asyncio.TaskGroup() as group:
            for sending in sendings:
                group.create_task(send(sending))

    async def _wait_for_ends(self, letters: int) -> None:
        changed = monotonic()
        while True:
            progress = await self._read_progress()
            if progress[0] >= len(self._plan.good) and progress[1] >= letters:
                return
            if progress != self._progress:
                self._progress, changed = progress, monotonic()
            if monotonic() - changed > _STALL_LIMIT:
                self._say(f"no more progress: {progress[0]} sagas have ended, {progress[1]} dead letters are stored")
                return
            await asyncio.sleep(_POLL_INTERVAL)

    async def _read_progress(self) -> tuple[int, int]:
        final = [phase.value for phase in Phase if phase.is_final]
        async with self._database.reading() as connection:
            ended = await connection.scalar(select(func.count()).select_from(saga).where(saga.c.phase.in_(final)))
            letters = await connection.scalar(select(func.count()).select_from(saga_dead_letter))
        return int(ended or 0), int(letters or 0)

    async def _wait_for_executions(self) -> list[str]:
        """Return the ids of executions, other than partitions, that are still running when the time is up."""
        since = monotonic()
        while running := [
            workflow_id for workflow_id in await self._executions(_RUNNING) if not is_partition(workflow_id)
        ]:
            if monotonic() - since > _STALL_LIMIT:
                break
            await asyncio.sleep(_POLL_INTERVAL)
        return running

    async def _executions(self, query: str) -> list[str]:
        kinds = ", ".join(f"'{name}'" for name in (*CATALOG.orchestrators, PUBLISH_EVENT_WORKFLOW))
        full_query = f"{query} AND WorkflowType IN ({kinds}) AND TaskQueue = '{self._task_queue}'"
        return [execution.id async for execution in self._client.list_workflows(full_query)]


_RUNNING = "ExecutionStatus = 'Running'"
_FAILING = "ExecutionStatus = 'Running' AND TemporalReportedProblems IN ('category=WorkflowTaskFailed')"
