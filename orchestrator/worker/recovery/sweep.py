"""Recovery completes or undoes sagas whose executions were terminated, deleted, timed out, or lost with their cluster.

A sweep checks every stalled saga, then every execution that was cut off since the last sweep. Any number of sweeps may
run at the same time, and each may be interrupted anywhere, because every decision is a compare-and-set in the database
and every start is a signal-with-start. The next sweep does what an interrupted one has not done.
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
from orchestrator.store.belonging import RecoveryRefused, adopt, check_belonging
from orchestrator.store.core.clock import read_clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.error_text import error_text
from orchestrator.store.dead_letters.intake import fill_in_event_ids
from orchestrator.store.external.undo import OrphanedEffect
from orchestrator.store.recovery import RecordedSaga, record_swept, recorded_sagas, swept_until
from orchestrator.store.unused_lock_keys import BATCH, remove_unused_heads
from orchestrator.worker.attempt_failure import attempt_failed
from orchestrator.worker.fault_log import fault_log_of
from orchestrator.worker.recovery.closed_runs import ClosedRun, closed_abnormally, newest_close
from orchestrator.worker.recovery.failing_executions import failing_sagas
from orchestrator.worker.recovery.limits import Limits, SweepState
from orchestrator.worker.recovery.moving import move_from
from orchestrator.worker.recovery.orphaned_effects import next_orphaned_effects, undo_orphaned_effect, workflow_id_of
from orchestrator.worker.recovery.stalled_pages import StalledPages
from orchestrator.worker.recovery.stalled_sagas import recover_saga
from orchestrator.worker.recovery.undelivered_messages import settle_messages
from orchestrator.workflow.system.recovery import RECOVER, SHOWN, Action, Sweep

T = TypeVar("T")

_log = logging.getLogger(__name__)

_AT_ONCE = 20
"""The maximum number of sagas or executions that are checked concurrently."""
_HEAD_BATCHES = 200
"""The maximum number of batches of unused lock heads that one sweep removes. Sagas with new keys add fewer than that
between two sweeps, so the table cannot grow without end."""
_DEAD_LETTER_BATCHES = 20
"""The maximum number of batches of an older version's dead letters for which one sweep looks up event ids."""
_RUNS = 200
"""The number of closed runs on one page."""
_SETTLED_RUNS = 50_000
"""The maximum number of settled runs that a process remembers, so that it does not read their histories again."""
_VISIBILITY_LAG = timedelta(minutes=2)
"""How late a closed execution may become visible. Executions that closed up to this long before the mark are checked
again. If the mark is further ahead of Temporal's clock than this, a worker whose clock was ahead has written it."""


class Recovery:
    """Recovers the sagas of one application.

    Args:
        client: a connection to the Temporal server that the database belongs to.
        databases: the home database, and the remote ones if steps run in them.
        catalog: the known orchestrators. Other orchestrators' sagas are left to workers that know them.
        task_queue: the task queue of the workers. Executions on other task queues belong to other applications.
        limits: the limits of each sweep.
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
        self._stalled = [StalledPages(from_future=from_future) for from_future in (False, True)]
        self._settled_runs: set[str] = set()
        """The run ids of closed runs that were settled since the mark was last moved."""

    async def check_belonging(self) -> None:
        """Check that the databases' sagas run on this Temporal server.

        Raises:
            RecoveryRefused: they run on another server; the message says what to do.
        """
        for _, database in self.databases:
            await check_belonging(database, self._client.namespace, await self._cluster_id())

    async def adopt(self) -> None:
        """Assign the databases to this Temporal server."""
        for _, database in self.databases:
            await adopt(database, self._client.namespace, await self._cluster_id())

    async def sweep(
        self,
        *,
        dry_run: bool = False,
        heartbeat: Callable[[int], None] = lambda _: None,
        temporal_time: datetime | None = None,
        moves_from: str | None = None,
    ) -> Sweep:
        """Check every stalled saga and every execution that was cut off since the last sweep, and recover them.

        A failure with one saga is logged and does not affect the others.

        Args:
            dry_run: whether to change nothing and only report what would be done.
            heartbeat: called for each saga and execution, to send the sweep's heartbeats.
            temporal_time: the current time of Temporal's clock, if the caller knows it.
            moves_from: another task queue, from which executions and schedules are first moved to this one.

        Raises:
            RecoveryRefused: the database belongs to another Temporal server.
            temporalio.service.RPCError: the server does not answer.
        """
        await self.check_belonging()
        sweep = self._new_sweep(dry_run=dry_run, heartbeat=heartbeat)
        if moves_from is not None:
            await move_from(sweep, moves_from, _settle_run)
        now = await read_clock(self._database)

        async def look_at_all(page: Sequence[RecordedSaga]) -> None:
            await _for_each(page, lambda recorded: _recover(sweep, recorded))

        # Failing sagas are few and come first, because the stalled ones may use up all checks of a sweep.
        await look_at_all(await failing_sagas(sweep))
        has_more = any([await pages.look(sweep, look_at_all, now=now) for pages in self._stalled])
        last: OrphanedEffect | None = None
        while not sweep.is_full and (effects := await next_orphaned_effects(sweep, now, last)):
            await _for_each(effects, lambda effect: _undo_effect(sweep, effect))
            last = effects[-1]
        swept = await self._settle_closed(sweep, now, temporal_time)
        if not dry_run:
            await self._remove_heads(heartbeat)
            await self._fill_in_event_ids(heartbeat)
        return Sweep(
            looked_at=len(sweep.seen),
            alive=sweep.alive,
            counts={action: sweep.counts[action] for action in Action},
            swept_until=swept.isoformat() if swept else None,
            findings=tuple(sweep.findings),
            has_more=has_more,
        )

    async def recover(self, sagas: Sequence[UUID]) -> None:
        """Check these sagas immediately, without waiting for the grace time.

        Never raises. Errors are logged, and the next sweeps check the sagas again.
        """
        sweep = self._new_sweep(dry_run=False, heartbeat=lambda _: None)
        try:
            await self.check_belonging()
            recorded = await recorded_sagas(self._database, sagas)
        except Exception as fault:
            fault_log_of(self.databases).failed(f"{len(sagas)} sagas could not be checked by recovery", fault)
            return
        unfinished = [row for row in recorded.values() if not row.phase.is_final]
        await _for_each(unfinished, lambda row: _recover(sweep, row))

    def _new_sweep(self, *, dry_run: bool, heartbeat: Callable[[int], None]) -> SweepState:
        return SweepState(
            client=self._client,
            databases=self.databases,
            catalog=self._catalog,
            task_queue=self._task_queue,
            limits=self._limits,
            dry_run=dry_run,
            heartbeat=heartbeat,
        )

    async def _remove_heads(self, heartbeat: Callable[[int], None]) -> None:
        for batch in range(_HEAD_BATCHES):
            heartbeat(batch)
            if await remove_unused_heads(self._database) < BATCH:
                return

    async def _fill_in_event_ids(self, heartbeat: Callable[[int], None]) -> None:
        for batch in range(_DEAD_LETTER_BATCHES):
            heartbeat(batch)
            if not await fill_in_event_ids(self._database):
                return

    async def _settle_closed(
        self, sweep: SweepState, database_time: datetime, temporal_time: datetime | None
    ) -> datetime | None:
        """Settle the undelivered messages of executions that were cut off.

        The mark is compared with the times at which executions closed, so it must never be ahead of Temporal's clock.
        Otherwise executions that close before the mark would not be checked. Only `orchestrator recover`, which does
        not know Temporal's clock, measures the grace time with the database's clock.

        Returns:
            The new mark, up to which everything is settled; None if something remains to be settled, or in a dry run.
        """
        if not self._catalog.orchestrators:
            return None
        reached = temporal_time or await newest_close(self._client)
        until = (temporal_time or max(reached or database_time, database_time)) - self._limits.grace
        latest = None if reached is None else reached + _VISIBILITY_LAG
        before = await swept_until(self._database)
        if before is not None and latest is not None and before > latest:
            _log.warning(
                "closed executions are marked as settled until %s, but Temporal's clock says %s, because a worker "
                "whose clock was ahead has written the mark. All closed executions that still exist are checked again",
                *(before.isoformat(), reached),
            )
        since = None if before is None or latest is None or before > latest else before - _VISIBILITY_LAG
        newest, is_all_settled = reached, True
        async for page in _in_pages(
            closed_abnormally(self._client, self._catalog.orchestrators, self._task_queue, since=since, until=until)
        ):
            if sweep.is_full:
                return None
            runs = [run for run in page if run.run_id not in self._settled_runs]
            settled = await _for_each(runs, lambda run: _settle_run(sweep, run))
            is_all_settled = is_all_settled and all(settled)
            newest = max([run.closed_at for run in page] + ([] if newest is None else [newest]))
            if not sweep.dry_run and len(self._settled_runs) < _SETTLED_RUNS:
                self._settled_runs |= {run.run_id for run, is_settled in zip(runs, settled, strict=True) if is_settled}
        if sweep.dry_run or not is_all_settled or newest is None:
            return None
        swept = min(until, newest)
        await record_swept(self._database, swept, latest=newest + _VISIBILITY_LAG)
        self._settled_runs.clear()
        return swept

    async def _cluster_id(self) -> str:
        info = await self._client.workflow_service.get_cluster_info(GetClusterInfoRequest())
        return info.cluster_id


def recovery_activity(recovery: Recovery) -> Callable[..., Any]:
    """Return the activity of `orchestrator.workflow.system.recovery.SagaRecovery`."""

    @activity.defn(name=RECOVER)
    async def recover() -> Sweep:
        try:
            swept = await recovery.sweep(heartbeat=activity.heartbeat, temporal_time=activity.info().started_time)
        except RecoveryRefused as fault:
            _log.warning("%s", fault)
            raise ApplicationError(str(fault), type="recovery.refused", non_retryable=True) from None
        except Exception as fault:
            raise attempt_failed(fault, recovery.databases, final=False, waiting=()) from fault
        if any(swept.counts[action] for action in Action):
            _log.info("recovery: %s", swept.sentence())
        return swept.model_copy(update={"findings": swept.findings[:SHOWN]})

    return recover


async def _recover(sweep: SweepState, recorded: RecordedSaga) -> None:
    if sweep.has_looked_enough:
        return
    try:
        await recover_saga(sweep, recorded)
    except Exception as fault:
        _note_failure(sweep, own_workflow_id(recorded.orchestrator, recorded.event_id), fault)
    sweep.heartbeat(len(sweep.seen))


async def _undo_effect(sweep: SweepState, effect: OrphanedEffect) -> None:
    try:
        await undo_orphaned_effect(sweep, effect)
    except Exception as fault:
        _note_failure(sweep, workflow_id_of(effect), fault)
    sweep.heartbeat(len(sweep.seen))


async def _settle_run(sweep: SweepState, run: ClosedRun) -> bool:
    if sweep.is_full:
        return False  # reading its history costs a request, and everything in it would be postponed
    try:
        return await settle_messages(sweep, run)
    except Exception as fault:
        _note_failure(sweep, run.workflow_id, fault)
        return False
    finally:
        sweep.heartbeat(len(sweep.seen))


def _note_failure(sweep: SweepState, workflow_id: str, fault: Exception) -> None:
    fault_log_of(sweep.databases).failed(f"recovery of {workflow_id} failed", fault)
    sweep.note(Action.FAIL, workflow_id, error_text(fault))


async def _for_each(items: Sequence[T], work: Callable[[T], Awaitable[Any]]) -> list[Any]:
    """Run the work for each item, for at most `_AT_ONCE` items concurrently."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def in_slot(item: T) -> Any:
        async with slots:
            return await work(item)

    return await asyncio.gather(*(in_slot(item) for item in items))


async def _in_pages(runs: AsyncIterator[ClosedRun]) -> AsyncGenerator[list[ClosedRun]]:
    page: list[ClosedRun] = []
    async for run in runs:
        page.append(run)
        if len(page) == _RUNS:
            yield page
            page = []
    if page:
        yield page
