"""Recovery: sees that sagas end whose executions were terminated, deleted, timed out, or lost with their cluster.

A sweep looks at every saga that has been silent, then at every execution that was cut off since the last sweep. Any
number of sweeps may run at once, and each may be cut off anywhere: every decision is a compare-and-set in the database,
every start a signal-with-start, and what a sweep did not come to is the next one's.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from temporalio import activity
from temporalio.api.workflowservice.v1 import GetClusterInfoRequest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.names import own_workflow_id
from orchestrator.store.core.clock import read_clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.error_text import error_text
from orchestrator.store.dead_letters.intake import name_letters
from orchestrator.store.external.undo import OrphanedEffect
from orchestrator.store.lock_heads import BATCH, remove_unused_heads
from orchestrator.store.recovery import (
    RecordedSaga,
    RecoveryRefused,
    adopt,
    check_belonging,
    record_swept,
    recorded_sagas,
    swept_until,
)
from orchestrator.worker.attempt_failure import attempt_failed
from orchestrator.worker.fault_log import fault_log_of
from orchestrator.worker.recovery.closed_runs import ClosedRun, closed_abnormally, newest_close
from orchestrator.worker.recovery.failing_executions import failing_sagas
from orchestrator.worker.recovery.limits import Limits, Sweeping
from orchestrator.worker.recovery.moving import move_from
from orchestrator.worker.recovery.orphaned_effects import next_left, settle_left, workflow_id_of
from orchestrator.worker.recovery.stalled_pages import SilentPages
from orchestrator.worker.recovery.stalled_sagas import recover_saga
from orchestrator.worker.recovery.undelivered_messages import settle_messages
from orchestrator.workflow.system.recovery import RECOVER, SHOWN, Action, Sweep

T = TypeVar("T")

_log = logging.getLogger(__name__)

_AT_ONCE = 20
"""Sagas, or executions, that are looked at at once."""
_HEAD_BATCHES = 200
"""Batches of unused lock heads that one sweep removes at most: more heads than sagas with new keys can leave between
two sweeps, otherwise the table would only grow."""
_LETTER_BATCHES = 20
"""Batches of dead letters of an older version that one sweep looks up event ids for."""
_RUNS = 200
"""Closed runs that are looked through before the next ones are asked for."""
_SETTLED_RUNS = 50_000
"""Closed runs that a process remembers to have settled, so that it does not read their histories again."""
_VISIBILITY_LAG = timedelta(minutes=2)
"""How late an execution that closed may become visible: what closed within it is looked through once more. A mark that
is further ahead of Temporal's clock than this was written by a worker whose clock was ahead."""


class Recovery:
    """Sweeps for one application.

    Args:
        client: a connection to the Temporal that the database belongs to.
        databases: the home database, with the others if steps are in them.
        catalog: sagas of other orchestrators are left to workers that know them.
        task_queue: the workers'; executions of other task queues are another application's.
        limits: grace time and ceiling.
    """

    def __init__(
        self,
        client: Client,
        databases: Database | Databases,
        catalog: Catalog,
        *,
        task_queue: str,
        limits: Limits | None = None,
    ) -> None:
        self._client = client
        self.databases = Databases.of(databases)
        self._database = self.databases.home
        self._catalog = catalog
        self._task_queue = task_queue
        self._limits = limits or Limits()
        self._silent = [SilentPages(from_future=from_future) for from_future in (False, True)]
        self._settled_runs: set[str] = set()
        """Closed runs that were settled since executions were looked through completely, by run id."""

    async def check_belonging(self) -> None:
        """Make sure that the database's sagas run on this Temporal.

        Raises:
            RecoveryRefused: they do not; the message says what to do.
        """
        for _, database in self.databases:
            await check_belonging(database, self._client.namespace, await self._cluster_id())

    async def adopt(self) -> None:
        """Make the databases belong to this Temporal."""
        for _, database in self.databases:
            await adopt(database, self._client.namespace, await self._cluster_id())

    async def sweep(
        self,
        *,
        dry_run: bool = False,
        heard: Callable[[int], None] = lambda _: None,
        temporal_time: datetime | None = None,
        moves_from: str | None = None,
    ) -> Sweep:
        """Look at every silent saga and every execution that was cut off since the last sweep, and act.

        What fails on one saga is told, and stops no other.

        Args:
            dry_run: say what would be done, and do nothing.
            heard: called with each saga and execution, so that whoever watches knows that the sweep lives.
            temporal_time: what Temporal's clock says, if the caller knows.
            moves_from: another task queue; what runs there is moved to this one first.

        Raises:
            RecoveryRefused: the database belongs to another Temporal.
            temporalio.service.RPCError: the server does not answer.
        """
        await self.check_belonging()
        sweeping = self._sweeping(dry_run=dry_run, heard=heard)
        if moves_from is not None:
            await move_from(sweeping, moves_from, _look_through)
        now = await read_clock(self._database)

        async def look_at_all(page: Sequence[RecordedSaga]) -> None:
            await _each(page, lambda recorded: _look_at(sweeping, recorded))

        # First, as they are few: silent sagas may be so many that a sweep looks at no others.
        await look_at_all(await failing_sagas(sweeping))
        has_more = any([await pages.look(sweeping, look_at_all, now=now) for pages in self._silent])
        left: OrphanedEffect | None = None
        while not sweeping.is_full and (steps := await next_left(sweeping, now, left)):
            await _each(steps, lambda step: _take_back(sweeping, step))
            left = steps[-1]
        swept = await self._look_through_closed(sweeping, now, temporal_time)
        if not dry_run:
            await self._remove_heads(heard)
            await self._name_letters(heard)
        return Sweep(
            looked_at=len(sweeping.seen),
            alive=sweeping.alive,
            counts={action: sweeping.counts[action] for action in Action},
            swept_until=swept.isoformat() if swept else None,
            findings=tuple(sweeping.findings),
            has_more=has_more,
        )

    async def recover(self, sagas: Sequence[UUID]) -> None:
        """Look at these sagas at once, and not when they have been silent for a while. Never raises: what fails is
        told in the log, and the next sweeps look again."""
        sweeping = self._sweeping(dry_run=False, heard=lambda _: None)
        try:
            await self.check_belonging()
            recorded = await recorded_sagas(self._database, sagas)
        except Exception as fault:
            fault_log_of(self.databases).failed(f"{len(sagas)} sagas could not be looked at", fault)
            return
        await _each([one for one in recorded.values() if not one.phase.is_final], lambda one: _look_at(sweeping, one))

    def _sweeping(self, *, dry_run: bool, heard: Callable[[int], None]) -> Sweeping:
        return Sweeping(
            client=self._client,
            databases=self.databases,
            catalog=self._catalog,
            task_queue=self._task_queue,
            limits=self._limits,
            dry_run=dry_run,
            heard=heard,
        )

    async def _remove_heads(self, heard: Callable[[int], None]) -> None:
        for batch in range(_HEAD_BATCHES):
            heard(batch)
            if await remove_unused_heads(self._database) < BATCH:
                return

    async def _name_letters(self, heard: Callable[[int], None]) -> None:
        for batch in range(_LETTER_BATCHES):
            heard(batch)
            if not await name_letters(self._database):
                return

    async def _look_through_closed(
        self, sweeping: Sweeping, database_time: datetime, temporal_time: datetime | None
    ) -> datetime | None:
        """Settle what executions that were cut off have left.

        The mark is compared with times at which executions closed, so it must never pass Temporal's own clock: what
        closes before a mark that lies in the future would not be looked at. Only the grace time of `orchestrator
        recover`, which does not learn that clock, is measured with the database's.

        Returns:
            Up to when everything is settled, None if something is left or nothing is changed.
        """
        if not self._catalog.orchestrators:
            return None
        reached = temporal_time or await newest_close(self._client)
        until = (temporal_time or max(reached or database_time, database_time)) - self._limits.grace
        latest = None if reached is None else reached + _VISIBILITY_LAG
        before = await swept_until(self._database)
        if before is not None and latest is not None and before > latest:
            _log.warning(
                "executions that closed were marked as looked through until %s, and Temporal's clock says %s: a worker "
                "whose clock was ahead has written that. All that are still kept are looked through once more",
                *(before.isoformat(), reached),
            )
        since = None if before is None or latest is None or before > latest else before - _VISIBILITY_LAG
        newest, is_all_settled = reached, True
        async for some in _in_pages(
            closed_abnormally(self._client, self._catalog.orchestrators, self._task_queue, since=since, until=until)
        ):
            if sweeping.is_full:
                return None
            runs = [run for run in some if run.run_id not in self._settled_runs]
            settled = await _each(runs, lambda run: _look_through(sweeping, run))
            is_all_settled = is_all_settled and all(settled)
            newest = max([run.closed_at for run in some] + ([] if newest is None else [newest]))
            if not sweeping.dry_run and len(self._settled_runs) < _SETTLED_RUNS:
                self._settled_runs |= {run.run_id for run, is_settled in zip(runs, settled, strict=True) if is_settled}
        if sweeping.dry_run or not is_all_settled or newest is None:
            return None
        swept = min(until, newest)
        await record_swept(self._database, swept, latest=newest + _VISIBILITY_LAG)
        self._settled_runs.clear()
        return swept

    async def _cluster_id(self) -> str:
        info = await self._client.workflow_service.get_cluster_info(GetClusterInfoRequest())
        return info.cluster_id


def recovery_activity(recovery: Recovery) -> Callable[..., Any]:
    """The activity of `orchestrator.workflow.system.recovery.SagaRecovery`."""

    @activity.defn(name=RECOVER)
    async def recover() -> Sweep:
        try:
            swept = await recovery.sweep(heard=activity.heartbeat, temporal_time=activity.info().started_time)
        except RecoveryRefused as fault:
            _log.warning("%s", fault)
            raise ApplicationError(str(fault), type="recovery.refused", non_retryable=True) from None
        except Exception as fault:
            raise attempt_failed(fault, recovery.databases, final=False, waiting=()) from fault
        if any(swept.counts[action] for action in Action):
            _log.info("recovery: %s", swept.sentence())
        return swept.model_copy(update={"findings": swept.findings[:SHOWN]})

    return recover


async def _look_at(sweeping: Sweeping, recorded: RecordedSaga) -> None:
    if sweeping.has_looked_enough:
        return
    try:
        await recover_saga(sweeping, recorded)
    except Exception as fault:
        _fail(sweeping, own_workflow_id(recorded.orchestrator, recorded.event_id), fault)
    sweeping.heard(len(sweeping.seen))


async def _take_back(sweeping: Sweeping, left: OrphanedEffect) -> None:
    try:
        await settle_left(sweeping, left)
    except Exception as fault:
        _fail(sweeping, workflow_id_of(left), fault)
    sweeping.heard(len(sweeping.seen))


async def _look_through(sweeping: Sweeping, run: ClosedRun) -> bool:
    if sweeping.is_full:
        return False  # to read its history costs a request, and whatever is in it would be postponed
    try:
        return await settle_messages(sweeping, run)
    except Exception as fault:
        _fail(sweeping, run.workflow_id, fault)
        return False
    finally:
        sweeping.heard(len(sweeping.seen))


def _fail(sweeping: Sweeping, workflow_id: str, fault: Exception) -> None:
    fault_log_of(sweeping.databases).failed(f"recovery of {workflow_id} failed", fault)
    sweeping.note(Action.FAIL, workflow_id, error_text(fault))


async def _each(these: Sequence[T], look: Callable[[T], Awaitable[Any]]) -> list[Any]:
    """Look at each, some at once."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(this: T) -> Any:
        async with places:
            return await look(this)

    return await asyncio.gather(*(one(this) for this in these))


async def _in_pages(runs: AsyncIterator[ClosedRun]) -> AsyncGenerator[list[ClosedRun]]:
    page: list[ClosedRun] = []
    async for run in runs:
        page.append(run)
        if len(page) == _RUNS:
            yield page
            page = []
    if page:
        yield page
