"""A wave opens up to fifty sagas, drives each with its `handle` in this process, and finishes them in small groups.

A wave keeps nothing about a saga in memory. An old wave may still run beside a new one, in this process or another,
because the database prevents conflicts between them. A saga that a wave cannot settle soon is postponed, or gets its
own execution, which is running before the wave reports it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from time import monotonic
from uuid import UUID

from sqlalchemy import update
from temporalio.client import Client

from orchestrator.definition.catalog import AnyOrchestrator
from orchestrator.drive.driver import Driver, EventIdReused, SagaStuck
from orchestrator.protocol.commands import Opening, Phase, SagaRef
from orchestrator.protocol.lock_keys import lock_keys_of
from orchestrator.protocol.messages.dead_letters import DeadLetter
from orchestrator.protocol.messages.envelope import UnreadableEvent, read, saga_id
from orchestrator.protocol.messages.unwrapping import id_reused, unwrap
from orchestrator.protocol.names import own_workflow_id
from orchestrator.protocol.wave import SMALL_WAVE, PostponedItem, PostponeReason, WaveCommand, WaveReply
from orchestrator.store.core.error_text import error_text
from orchestrator.store.core.schema import saga
from orchestrator.store.dead_letters.intake import store_dead_letter
from orchestrator.store.locks import Woken
from orchestrator.store.saga.opening import OpenSaga, open_sagas
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.worker.fault_log import fault_log_of
from orchestrator.worker.outages import is_lost
from orchestrator.worker.partition.group_commit import GroupCommitSwitch, StepGroups
from orchestrator.worker.partition.handover import OwnExecutions
from orchestrator.worker.partition.items import DriveResult, EventItem, OwnExecutionNeeded, Rejected, Results
from orchestrator.worker.partition.reading import read_events
from orchestrator.worker.partition.steps import DriveSlot, FinishGroups, NeedsOwn, Postponed, WaveSteps

_SOFT = 0.7
"""Seconds after which no further saga or step begins, because a partition processes no messages during a wave."""
_HARD = 3.0
"""Seconds after which the wave abandons the drives that still run."""
_LET_GO = 0.5
"""How many seconds abandoned drives have to end."""
_AT_ONCE = 18
"""The maximum number of sagas that are driven at the same time, which is about the number of connections."""
_MOST_DRIVES = 2
"""The maximum number of drives of a saga that may begin without reporting an end. With more, the saga may be what
killed the workers, so it is driven alone in its own execution."""
_MOST_FAILURES = 3
"""How often a saga may be postponed as slow or failed before it gets its own execution."""
_MOST_LOSSES = 10
"""How often a saga may be postponed because the database was unavailable before it gets its own execution. An
operation's own errors may look like an unavailable database in each attempt."""


class Wave:
    """One wave of a partition.

    Args:
        steps: the steps' port to the databases.
        client: a connection to Temporal, to start own executions.
        task_queue: the task queue on which own executions run.
        orchestrator: the orchestrator of the partition's sagas.
        owner: the workflow id and first run id of the partition.
        run_id: the partition's current run id, under which dead letters are stored.
        group_commits: whether to group the steps of this orchestrator in this process.
    """

    def __init__(
        self,
        steps: StoreSteps,
        client: Client,
        task_queue: str,
        orchestrator: AnyOrchestrator,
        *,
        owner: tuple[str, str],
        run_id: str,
        group_commits: GroupCommitSwitch | None = None,
    ) -> None:
        self._steps = steps
        self._faults = fault_log_of(steps.databases)
        self._orchestrator = orchestrator
        self._owner = owner
        self._run_id = run_id
        self._own_executions = OwnExecutions(client, task_queue, steps.databases, orchestrator.__name__, owner[0])
        self._began = monotonic()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._under_way = 0
        self._finish_groups = FinishGroups(steps, self._wake, lambda: self._under_way)
        self._step_groups = StepGroups(steps, group_commits or GroupCommitSwitch())
        self._lock_events: dict[UUID, asyncio.Event] = {}
        """The asyncio events of sagas that wait for locks, each set when its saga may have acquired them."""
        self._begun: set[UUID] = set()
        """The ids of the sagas whose `drives` were incremented."""
        self._woken: list[str] = []
        self._is_small = False

    async def drive(self, command: WaveCommand, messages: Sequence[bytes]) -> WaveReply:
        """Drive each saga as far as possible.

        Args:
            command: the items, in the order of arrival.
            messages: the messages of the items that are not open yet, in the same order.

        Raises:
            Exception: no saga could be opened, and nothing was done.
        """
        self._is_small = len(command.items) <= SMALL_WAVE
        results = Results()
        readable = await read_events(self._steps.database, self._orchestrator, command, messages, results)
        items = self._find_locks(readable, results)
        rows = await self._open(items, results)
        opened = [item for item in items if item.index in rows]
        if command.opens_only:
            for item in opened:
                is_reused = rows[item.index].reused
                results.add(self._reject_reused(item) if is_reused else item.postponed(PostponeReason.UNREACHED))
        else:
            await self._drive_all(opened, rows, results)
        not_started = await self._own_executions.start(results.need_own)
        results.postponed += not_started
        for rejected in results.rejected:
            await self._store_dead_letter(rejected)
        await self._uncount_drives([rows[item.index].id for item in results.postponed if item.index in rows])
        own = len(results.need_own) - len(not_started)
        return WaveReply(
            postponed=tuple(sorted(results.postponed, key=lambda item: item.index)),
            done=len(command.items) - len(results.postponed) - own - len(results.rejected),
            own=own,
            dead_letters=len(results.rejected),
            woken=tuple(self._woken),
            seconds=round(monotonic() - self._began, 3),
        )

    def _find_locks(self, readable: Sequence[EventItem], results: Results) -> list[EventItem]:
        """Compute the items' lock keys. An item whose `locks` raises is left out and gets its own execution."""
        items: list[EventItem] = []
        for item in readable:
            try:
                item.locks = lock_keys_of(self._orchestrator, item.event)
                items.append(item)
            except Exception as bug:
                results.add(self._report_bug(item, bug))
        return items

    async def _open(self, items: Sequence[EventItem], results: Results) -> dict[int, OpenSaga]:
        """Open the sagas, and return their rows by index. Sagas that cannot be opened are added to the results."""
        if not items:
            return {}
        try:
            return await self._open_together(items)
        except Exception as fault:
            if is_lost(fault):
                raise
            what = f"opening a wave of {self._orchestrator.__name__} failed, so its sagas are opened one by one"
            self._faults.failed(what, fault)
        rows: dict[int, OpenSaga] = {}
        skipped_keys: set[str] = set()
        for item in items:
            if not skipped_keys.isdisjoint(item.locks.keys):  # it would enter a lock queue before an earlier saga
                skipped_keys.update(item.locks.keys)
                results.add(item.postponed(PostponeReason.UNREACHED))
                continue
            try:
                rows |= await self._open_together([item])
            except Exception as fault:
                if is_lost(fault):
                    raise
                self._faults.failed(f"opening {self._saga_name(item)} failed", fault)
                skipped_keys.update(item.locks.keys)
                results.add(self._postpone(item, PostponeReason.FAILED))
        return rows

    async def _open_together(self, items: Sequence[EventItem]) -> dict[int, OpenSaga]:
        openings = {item.index: self._opening(item) for item in items}
        rows = await self._steps.database.in_transaction(
            lambda connection: open_sagas(connection, list(openings.values()), self._steps.catalog, begins=True)
        )
        self._begun |= {key for key, row in rows.items() if not row.blocked_by}
        for item in items:
            item.is_open = not rows[openings[item.index].saga.id].reused
        return {index: rows[opening.saga.id] for index, opening in openings.items()}

    def _opening(self, item: EventItem) -> Opening:
        name, envelope = self._orchestrator.__name__, item.envelope
        return Opening(
            saga=SagaRef(id=saga_id(name, envelope.event_id), orchestrator=name, event_id=envelope.event_id),
            envelope=envelope.text,
            owner_workflow_id=self._owner[0],
            owner_first_run_id=self._owner[1],
            lock_keys=item.locks.keys,
            ordering_key=item.locks.ordering_key,
        )

    async def _drive_all(self, items: Sequence[EventItem], rows: Mapping[int, OpenSaga], results: Results) -> None:
        if not items:
            return
        drivers: dict[int, Driver] = {}
        self._lock_events = {rows[item.index].id: asyncio.Event() for item in items if rows[item.index].blocked_by}
        in_wave = {rows[item.index].id for item in items}
        drives = {
            item.index: asyncio.create_task(self._drive_one(item, rows[item.index], drivers, in_wave)) for item in items
        }
        _, running = await asyncio.wait(drives.values(), timeout=max(_HARD - (monotonic() - self._began), 0.0))
        if running:
            await _abandon({index: task for index, task in drives.items() if task in running}, drivers)
        for item in items:
            task = drives[item.index]
            if not task.done() or task.cancelled():
                results.add(self._postpone(item, PostponeReason.SLOW))
            elif (bug := task.exception()) is not None:  # a BaseException of the author's code
                results.add(self._report_bug(item, bug))
            else:
                results.add(task.result())

    async def _drive_one(
        self, item: EventItem, row: OpenSaga, drivers: dict[int, Driver], in_wave: set[UUID]
    ) -> DriveResult:
        """Drive one saga. Wait for its locks and for a slot, then run its `handle`."""
        unblocked = await self._wait_for_locks(item, row, in_wave)
        if not isinstance(unblocked, OpenSaga):
            return unblocked
        row = unblocked
        if row.reused:
            return self._reject_reused(item)
        if row.outcome is not None:
            return None
        if row.drives > _MOST_DRIVES:
            return OwnExecutionNeeded(item, f"{row.drives - 1} drives began and did not report an end")
        async with DriveSlot(self._slots) as slot:
            if self._is_over():
                return item.postponed(PostponeReason.UNREACHED)
            self._under_way += 1
            try:
                return await self._drive_in_slot(item, row, drivers, slot)
            finally:
                self._under_way -= 1

    async def _wait_for_locks(
        self, item: EventItem, row: OpenSaga, in_wave: set[UUID]
    ) -> OpenSaga | PostponedItem | OwnExecutionNeeded:
        """Wait while the saga is blocked by others of this wave. Return its row, or why it cannot be driven now."""
        while row.blocked_by and row.outcome is None and not self._is_late(row):
            if any(blocker.holder.id not in in_wave for blocker in row.blocked_by):
                return item.postponed(PostponeReason.BLOCKED)
            may_hold_locks = self._lock_events[row.id]
            try:
                await asyncio.wait_for(may_hold_locks.wait(), max(_SOFT - (monotonic() - self._began), 0.0))
            except TimeoutError:
                return item.postponed(PostponeReason.UNREACHED)
            may_hold_locks.clear()
            try:
                row = (await self._open_together([item]))[item.index]
            except Exception as fault:
                return self._postpone(item, PostponeReason.LOST if is_lost(fault) else PostponeReason.FAILED)
        return row

    async def _drive_in_slot(
        self, item: EventItem, row: OpenSaga, drivers: dict[int, Driver], slot: DriveSlot
    ) -> DriveResult:
        """Run the saga's driver, and translate how it ended."""
        envelope = read(row.envelope)
        try:
            is_same = envelope.text == item.envelope.text
            event = item.event if is_same else unwrap(envelope, *self._orchestrator.requests, is_exact=False)
        except UnreadableEvent as fault:
            return OwnExecutionNeeded(item, f"its recorded event cannot be read: {fault}")
        port = WaveSteps(self._steps, self._finish_groups, self._step_groups, self._is_over, slot)
        driver = Driver(self._orchestrator, event, envelope, port, owner=self._owner, opened=True)
        drivers[item.index] = driver
        try:
            if row.phase is Phase.UNDOING:
                await driver.undo(Phase.FAILED, "", "")  # the database has recorded how the saga ends
            elif self._is_late(row):
                await driver.expire()
            else:
                await driver.drive()
        except Postponed as postponed:
            return self._postpone(item, postponed.why, postponed)
        except EventIdReused:
            return self._reject_reused(item)
        except NeedsOwn as needs:
            if needs.__cause__ is not None:
                name = self._saga_name(item)
                self._faults.failed(f"{name} failed in a wave", needs.__cause__, waiting=[name])
            return OwnExecutionNeeded(item, needs.why)
        except SagaStuck as stuck:
            return OwnExecutionNeeded(item, f"it is stuck: {stuck}")
        except Exception as bug:
            return self._report_bug(item, bug)
        return None

    def _report_bug(self, item: EventItem, bug: BaseException) -> OwnExecutionNeeded:
        """Log a bug in the author's code. The saga's own execution shows it to operators, and continues after a fix."""
        self._faults.failed(f"{self._saga_name(item)} failed", bug, waiting=[self._saga_name(item)])
        return OwnExecutionNeeded(item, error_text(bug))

    def _postpone(
        self, item: EventItem, why: PostponeReason, postponed: Postponed | None = None
    ) -> PostponedItem | OwnExecutionNeeded:
        """Leave a saga to a later wave, or to its own execution if it has been postponed too often."""
        if postponed is not None and postponed.__cause__ is not None:
            name = self._saga_name(item)
            self._faults.failed(f"{name} failed in a wave", postponed.__cause__, waiting=[name])
        # In a large wave a saga may be slow because of the others, but the next wave is smaller.
        failures = item.item.failures + (
            why is PostponeReason.FAILED or (why is PostponeReason.SLOW and self._is_small)
        )
        losses = item.item.losses + (why is PostponeReason.LOST)
        if failures >= _MOST_FAILURES or losses >= _MOST_LOSSES:
            times = failures + losses
            return OwnExecutionNeeded(item, f"it was postponed {times} times, lastly as {postponed or why.value}")
        return item.postponed(why)

    def _reject_reused(self, item: EventItem) -> Rejected:
        message = item.item.message(item.envelope.text.encode())
        return Rejected(message, id_reused(item.envelope.event_id))

    def _saga_name(self, item: EventItem) -> str:
        return own_workflow_id(self._orchestrator.__name__, item.envelope.event_id)

    def _is_late(self, row: OpenSaga) -> bool:
        deadline: timedelta | None = self._orchestrator.deadline
        return deadline is not None and row.age > deadline

    def _is_over(self) -> bool:
        return monotonic() - self._began > _SOFT

    async def _wake(self, woken: Sequence[Woken]) -> None:
        """Wake sagas that may hold their locks now.

        Sagas of this wave continue immediately, other sagas of this partition with its next wave. All others get a
        signal.
        """
        elsewhere: list[Woken] = []
        for waiter in woken:
            if waiter.saga.id in self._lock_events:
                self._lock_events[waiter.saga.id].set()
            elif waiter.owner_workflow_id == self._owner[0]:
                self._woken.append(waiter.saga.event_id)
            else:
                elsewhere.append(waiter)
        if elsewhere:
            await self._steps.waker(elsewhere)

    async def _uncount_drives(self, postponed: Sequence[UUID]) -> None:
        """Decrement `drives` of the postponed sagas, because their drives have ended without killing the worker."""
        begun = [key for key in postponed if key in self._begun]
        if not begun:
            return
        statement = update(saga).where(saga.c.id.in_(begun), saga.c.drives > 0).values(drives=saga.c.drives - 1)
        try:
            async with self._steps.database.transaction() as connection:
                await connection.execute(statement)
        except Exception as fault:  # harmless, because each saga merely counts one drive too many
            self._faults.failed("decrementing the drives of postponed sagas failed", fault)

    async def _store_dead_letter(self, rejected: Rejected) -> None:
        fault = rejected.fault
        letter = DeadLetter(rejected.message, fault.code, fault.message, self._owner[0], self._run_id)
        await store_dead_letter(self._steps.database, letter)


_abandoned: set["asyncio.Task[DriveResult]"] = set()
"""The drives that still run after their wave has ended."""


async def _abandon(running: Mapping[int, "asyncio.Task[DriveResult]"], drivers: Mapping[int, Driver]) -> None:
    """Ask drives to stop, and wait briefly. Any that still run end by themselves; the fence keeps them harmless."""
    for index, task in running.items():
        if index in drivers:
            drivers[index].abandon()
        else:
            task.cancel()
    _, still_running = await asyncio.wait(running.values(), timeout=_LET_GO)
    for task in still_running:
        _abandoned.add(task)
        task.add_done_callback(_abandoned.discard)
