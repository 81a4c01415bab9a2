"""Sending a plan through all doors at once, and waiting until everything has come to an end."""

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
from tests.doors.audit import Books, Findings, audit
from tests.doors.house import CATALOG
from tests.doors.plan import Plan, Sending
from tests.doors.senders import Senders

_AT_ONCE = 40
_LOOK = 0.25
_STANDSTILL = 60.0
"""Seconds without any change after which what is left is wedged."""


class Crowd:
    """Everybody who sends something.

    Args:
        plan: what is sent.
        senders: the doors.
        client: asked what still runs.
        database: looked into.
        task_queue: the workers'.
        say: told how far it is.
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
        self._standing = (0, 0)

    async def go(self) -> Findings:
        """Send, wait, count."""
        # An id is used again once the first has it: which of two counts is not decided by who sends first.
        first = [one for one in self._plan.sendings if not one.after]
        then = [one for one in self._plan.sendings if one.after]
        await self._send(first)
        self._say(f"{len(first)} messages are sent")
        letters = sum(len(one.kept) for one in self._plan.bad if not one.after)
        await self._until_ended(letters)
        await self._send(then)
        await self._until_ended(sum(len(one.kept) for one in self._plan.bad))
        running, failing = await self._until_quiet(), await self._executions(_FAILING)
        return audit(self._plan, await Books.of(self._database), running=running, failing=failing)

    async def _send(self, sendings: list[Sending]) -> None:
        places = asyncio.Semaphore(_AT_ONCE)
        sent = 0

        async def send(one: Sending) -> None:
            nonlocal sent
            async with places:
                await self._senders.send(one)
            sent += 1
            if sent % 1_000 == 0:
                self._say(f"{sent} of {len(sendings)} are sent; {self._standing[0]} sagas have ended")

        async with asyncio.TaskGroup() as group:
            for one in sendings:
                group.create_task(send(one))

    async def _until_ended(self, letters: int) -> None:
        changed = monotonic()
        while True:
            standing = await self._look()
            if standing[0] >= len(self._plan.good) and standing[1] >= letters:
                return
            if standing != self._standing:
                self._standing, changed = standing, monotonic()
            if monotonic() - changed > _STANDSTILL:
                self._say(f"nothing changes any more: {standing[0]} sagas have ended, {standing[1]} letters are kept")
                return
            await asyncio.sleep(_LOOK)

    async def _look(self) -> tuple[int, int]:
        final = [phase.value for phase in Phase if phase.is_final]
        async with self._database.reading() as connection:
            ended = await connection.scalar(select(func.count()).select_from(saga).where(saga.c.phase.in_(final)))
            letters = await connection.scalar(select(func.count()).select_from(saga_dead_letter))
        return int(ended or 0), int(letters or 0)

    async def _until_quiet(self) -> list[str]:
        """Ids of executions of their own that do not end."""
        since = monotonic()
        while left := [one for one in await self._executions(_RUNNING) if not is_partition(one)]:
            if monotonic() - since > _STANDSTILL:
                break
            await asyncio.sleep(_LOOK)
        return left

    async def _executions(self, query: str) -> list[str]:
        kinds = ", ".join(f"'{name}'" for name in (*CATALOG.orchestrators, PUBLISH_EVENT_WORKFLOW))
        whole = f"{query} AND WorkflowType IN ({kinds}) AND TaskQueue = '{self._task_queue}'"
        return [one.id async for one in self._client.list_workflows(whole)]


_RUNNING = "ExecutionStatus = 'Running'"
_FAILING = "ExecutionStatus = 'Running' AND TemporalReportedProblems IN ('category=WorkflowTaskFailed')"
