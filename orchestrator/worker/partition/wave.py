"""A wave: opens up to fifty sagas, drives each with its `handle` in this process, and ends them in small groups.

Nothing about a saga is kept in memory: an old wave may run on beside a new one, in another process or in this one, and
the database keeps them apart. What a wave cannot settle soon it gives back, or to an execution of the saga's own; that
is made sure of before it is reported.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, select, update
from temporalio import activity
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from orchestrator.client.own_execution import OwnExecution, ensure_own_execution
from orchestrator.definition.catalog import AnyOrchestrator
from orchestrator.drive.driver import Driver, EventIdReused, SagaStuck
from orchestrator.event import DomainEvent
from orchestrator.protocol import names
from orchestrator.protocol.commands import Opening, Phase, SagaRef
from orchestrator.protocol.dead_letters import pieces
from orchestrator.protocol.envelope import Envelope, UnreadableEvent, read, read_received, saga_id
from orchestrator.protocol.lock_keys import LockKeys, lock_keys_of
from orchestrator.protocol.names import own_workflow_id
from orchestrator.protocol.unwrapping import id_reused, unwrap
from orchestrator.protocol.wave import AWAY, SMALL_WAVE, PostponedItem, PostponeReason, WaveCommand, WaveItem, WaveReply
from orchestrator.store.core.error_text import error_text
from orchestrator.store.core.schema import saga
from orchestrator.store.dead_letters.intake import keep_piece
from orchestrator.store.locks import Woken
from orchestrator.store.saga.opening import OpenSaga, open_sagas
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.worker.attempt_failure import attempt_failed
from orchestrator.worker.fault_log import fault_log_of
from orchestrator.worker.partition.group_commit import Odds, StepGroups
from orchestrator.worker.partition.steps import DriveSlot, Finishing, NeedsOwn, Postponed, WaveSteps, is_lost

_log = logging.getLogger(__name__)

_SOFT = 0.7
"""Seconds after which no saga and no step begins: while a wave lasts, its partition hears nothing."""
_HARD = 3.0
"""Seconds after which the wave leaves what still runs."""
_LET_GO = 0.5
_AT_ONCE = 18
"""Sagas that are driven at once: about as many as there are connections."""
_MOST_DRIVES = 2
"""Drivers that may begin a saga and not be heard of again: it may have killed them, and is driven alone then."""
_MOST_FAILURES = 3
"""Times that a saga may be left as slow or failed before it gets an execution of its own."""
_MOST_LOSSES = 10
"""The same for the database that was away: an operation's own errors may look like it, in each attempt."""
_OWN_AT_ONCE = 10
"""Executions that one wave starts: a bug in everything must not start thousands at once."""


@dataclass(slots=True)
class _Enveloped:
    """One event of the wave."""

    index: int
    place: WaveItem
    envelope: Envelope
    is_open: bool
    """Its saga's row is known to be written: else its message is still needed."""

    def left(self, why: PostponeReason) -> PostponedItem:
        return PostponedItem(index=self.index, why=why, event_id=self.envelope.event_id if self.is_open else None)


@dataclass(slots=True)
class _Given(_Enveloped):
    """One that this worker can read."""

    event: DomainEvent
    locks: LockKeys = field(default_factory=lambda: LockKeys((), None))


@dataclass(frozen=True, slots=True)
class _Letter:
    """A message that no saga takes."""

    place: WaveItem
    raw: bytes
    fault: UnreadableEvent


@dataclass(frozen=True, slots=True)
class _Own:
    """A saga that needs an execution of its own, and why."""

    given: _Enveloped
    why: str


_Fate = PostponedItem | _Own | _Letter | None
"""What became of an event; None: it is done."""


class Wave:
    """One wave of a partition.

    Args:
        steps: the databases.
        client: for executions of their own.
        task_queue: where those run.
        orchestrator: whose events these are.
        owner: workflow id and first run id of the partition.
        run_id: of its present run, under which dead letters are kept.
        odds: of its orchestrator, in this process.
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
        odds: Odds | None = None,
    ) -> None:
        self._steps = steps
        self._faults = fault_log_of(steps.databases)
        self._client = client
        self._task_queue = task_queue
        self._orchestrator = orchestrator
        self._owner = owner
        self._run_id = run_id
        self._began = monotonic()
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._under_way = 0
        self._finishing = Finishing(steps, self._wake, lambda: self._under_way)
        self._groups = StepGroups(steps, odds or Odds())
        self._turns: dict[UUID, asyncio.Event] = {}
        """Set when a saga of this wave, that waits for locks, may hold them."""
        self._begun: set[UUID] = set()
        """Sagas whose `drives` were raised."""
        self._woken: list[str] = []
        self._is_small = False

    async def drive(self, command: WaveCommand, messages: Sequence[bytes]) -> WaveReply:
        """Drive what is given as far as it goes.

        Args:
            command: the places, in the order of arrival.
            messages: those of places that are not open yet, in the same order.

        Raises:
            Exception: nothing could be opened; nothing was done.
        """
        self._is_small = len(command.places) <= SMALL_WAVE
        given, letters, left, own = await self._read(command, messages)
        own += self._find_locks(given)
        rows, unopened = await self._open(given)
        opened = [one for one in given if one.index in rows]
        fates: list[_Fate] = [*unopened]
        if command.opens_only:
            fates += [
                self._reused(one) if rows[one.index].reused else one.left(PostponeReason.UNREACHED) for one in opened
            ]
        else:
            fates += await self._drive_all(opened, rows)
        for fate in fates:
            match fate:
                case PostponedItem():
                    left.append(fate)
                case _Own():
                    own.append(fate)
                case _Letter():
                    letters.append(fate)
                case None:
                    pass
        ungiven = await self._give_away(own)
        left += ungiven
        for letter in letters:
            await self._keep(letter)
        opened_left = [rows[one.index].id for one in left if one.index in rows]
        await self._came_back([key for key in opened_left if key in self._begun])
        return WaveReply(
            left=tuple(sorted(left, key=lambda one: one.index)),
            done=len(command.places) - len(left) - len(own) + len(ungiven) - len(letters),
            own=len(own) - len(ungiven),
            letters=len(letters),
            woken=tuple(self._woken),
            seconds=round(monotonic() - self._began, 3),
        )

    async def _read(
        self, command: WaveCommand, messages: Sequence[bytes]
    ) -> tuple[list[_Given], list[_Letter], list[PostponedItem], list[_Own]]:
        recorded = await self._recorded([place.event_id for place in command.places if place.event_id])
        given: list[_Given] = []
        letters: list[_Letter] = []
        left: list[PostponedItem] = []
        newer: list[_Own] = []
        met: dict[str, DomainEvent] = {}
        raws = iter(messages)
        for index, place in enumerate(command.places):
            raw = recorded.get(place.event_id, b"") if place.event_id else next(raws)
            if raw is None:
                continue  # others ended it, and it is purged since
            if not raw and place.door == names.WAKE_SIGNAL:
                continue  # whoever sent the wake named no saga
            envelope = None
            try:
                envelope = self._envelope(place, raw)
                event = unwrap(envelope, *self._orchestrator.requests, is_exact=place.event_id is None)
                known = met.setdefault(envelope.event_id, event)
                if known is event:
                    given.append(_Given(index, place, envelope, place.event_id is not None, event))
                elif known != event:
                    raise id_reused(envelope.event_id)
            except UnreadableEvent as fault:
                if envelope is not None and fault.is_newer:
                    # Its own execution waits for a newer worker; the partition may stay with this one for days.
                    newer.append(_Own(_Enveloped(index, place, envelope, place.event_id is not None), str(fault)))
                elif place.event_id is not None and raw:  # accepted, and begun by a worker that could read it
                    _log.warning("%s cannot be read here: %s", place.event_id, fault)
                    left.append(PostponedItem(index=index, why=PostponeReason.UNREADABLE, event_id=place.event_id))
                else:
                    letters.append(_Letter(place, raw, fault))
        return given, letters, left, newer

    def _envelope(self, place: WaveItem, raw: bytes) -> Envelope:
        if place.event_id is None:
            return read_received(place.door, raw)
        if not raw:
            raise UnreadableEvent("event.missing", f"{place.event_id}: its saga's row is gone")
        return read(raw)

    async def _recorded(self, event_ids: Sequence[str]) -> dict[str | None, bytes | None]:
        """Events by their ids; None for one that is purged."""
        if not event_ids:
            return {}
        ids = [saga_id(self._orchestrator.__name__, event_id) for event_id in event_ids]
        async with self._steps.database.reading() as connection:
            found = await connection.execute(
                select(saga.c.event_id, saga.c.envelope, saga.c.purged_at).where(saga.c.id.in_(ids))
            )
            return {row.event_id: None if row.purged_at else row.envelope.encode() for row in found}

    def _find_locks(self, given: list[_Given]) -> list[_Own]:
        """What each has to lock. A bug there shows in an execution of its own, as one in `handle` does."""
        faulty: list[_Own] = []
        for one in list(given):
            try:
                one.locks = lock_keys_of(self._orchestrator, one.event)
            except Exception as bug:
                faulty.append(self._buggy(one, bug))
                given.remove(one)
        return faulty

    async def _wake(self, woken: Sequence[Woken]) -> None:
        """Those of this wave go on at once, those of this partition with its next wave; others are told."""
        elsewhere: list[Woken] = []
        for one in woken:
            if one.saga.id in self._turns:
                self._turns[one.saga.id].set()
            elif one.owner_workflow_id == self._owner[0]:
                self._woken.append(one.saga.event_id)
            else:
                elsewhere.append(one)
        if elsewhere:
            await self._steps.waker(elsewhere)

    async def _open(self, given: Sequence[_Given]) -> tuple[dict[int, OpenSaga], list[_Fate]]:
        """Each saga's row, by its index in the wave, and what becomes of those that could not be opened."""
        if not given:
            return {}, []
        try:
            return await self._open_together(given), []
        except Exception as fault:
            if is_lost(fault):
                raise
            self._faults.failed(f"a wave of {self._orchestrator.__name__} could not be opened at once", fault)
        rows: dict[int, OpenSaga] = {}
        unopened: list[_Fate] = []
        passed_over: set[str] = set()
        for one in given:
            if not passed_over.isdisjoint(one.locks.keys):  # it would draw a ticket before one that came earlier
                passed_over.update(one.locks.keys)
                unopened.append(one.left(PostponeReason.UNREACHED))
                continue
            try:
                rows |= await self._open_together([one])
            except Exception as fault:
                if is_lost(fault):
                    raise
                self._faults.failed(f"{self._saga(one)} cannot be opened", fault)
                passed_over.update(one.locks.keys)
                unopened.append(self._failed(one, PostponeReason.FAILED))
        return rows, unopened

    async def _open_together(self, given: Sequence[_Given]) -> dict[int, OpenSaga]:
        openings = {one.index: self._opening(one) for one in given}
        rows = await self._steps.database.in_transaction(
            lambda connection: open_sagas(connection, list(openings.values()), self._steps.catalog, begins=True)
        )
        self._begun |= {key for key, row in rows.items() if not row.blocked_by}
        for one in given:
            one.is_open = not rows[openings[one.index].saga.id].reused
        return {index: rows[opening.saga.id] for index, opening in openings.items()}

    def _opening(self, one: _Given) -> Opening:
        name = self._orchestrator.__name__
        ref = SagaRef(id=saga_id(name, one.envelope.event_id), orchestrator=name, event_id=one.envelope.event_id)
        return Opening(
            saga=ref,
            envelope=one.envelope.text,
            owner_workflow_id=self._owner[0],
            owner_first_run_id=self._owner[1],
            lock_keys=one.locks.keys,
            ordering_key=one.locks.ordering_key,
        )

    async def _drive_all(self, given: Sequence[_Given], rows: dict[int, OpenSaga]) -> list[_Fate]:
        drivers: dict[int, Driver] = {}
        self._turns = {rows[one.index].id: asyncio.Event() for one in given if rows[one.index].blocked_by}
        here = {rows[one.index].id for one in given}
        driving = {
            one.index: asyncio.create_task(self._drive_one(one, rows[one.index], drivers, here)) for one in given
        }
        if not driving:
            return []
        left_over = _HARD - (monotonic() - self._began)
        _, running = await asyncio.wait(driving.values(), timeout=max(left_over, 0.0))
        if running:
            for index, task in driving.items():
                if task in running:
                    if index in drivers:
                        drivers[index].leave()
                    else:
                        task.cancel()
            _, running = await asyncio.wait(running, timeout=_LET_GO)
            for task in running:  # it ends by itself, and the database keeps it from doing harm
                _unheard.add(task)
                task.add_done_callback(_unheard.discard)
        fates: list[_Fate] = []
        for one in given:
            task = driving[one.index]
            if not task.done() or task.cancelled():
                fates.append(self._failed(one, PostponeReason.SLOW))
            elif (bug := task.exception()) is not None:  # an author's own BaseException
                fates.append(self._buggy(one, bug))
            else:
                fates.append(task.result())
        return fates

    async def _drive_one(self, one: _Given, row: OpenSaga, drivers: dict[int, Driver], here: set[UUID]) -> _Fate:
        while row.blocked_by and row.outcome is None and not _is_late(self._orchestrator.deadline, row):
            if any(blocker.holder.id not in here for blocker in row.blocked_by):
                return one.left(PostponeReason.BLOCKED)
            turn = self._turns[row.id]
            try:
                await asyncio.wait_for(turn.wait(), max(_SOFT - (monotonic() - self._began), 0.0))
            except TimeoutError:
                return one.left(PostponeReason.UNREACHED)
            turn.clear()
            try:
                row = (await self._open_together([one]))[one.index]
            except Exception as fault:
                return self._failed(one, PostponeReason.LOST if is_lost(fault) else PostponeReason.FAILED)
        if row.reused:
            return self._reused(one)
        if row.outcome is not None:
            return None
        if row.drives > _MOST_DRIVES:
            return _Own(one, f"{row.drives - 1} drivers began it and were not heard of again")
        async with DriveSlot(self._places) as place:
            if self._is_over():
                return one.left(PostponeReason.UNREACHED)
            self._under_way += 1
            try:
                return await self._go(one, row, drivers, place)
            finally:
                self._under_way -= 1

    async def _go(self, one: _Given, row: OpenSaga, drivers: dict[int, Driver], place: DriveSlot) -> _Fate:
        envelope = read(row.envelope)
        try:
            is_same = envelope.text == one.envelope.text
            event = one.event if is_same else unwrap(envelope, *self._orchestrator.requests, is_exact=False)
        except UnreadableEvent as fault:
            return _Own(one, f"its recorded event cannot be read: {fault}")
        port = WaveSteps(self._steps, self._finishing, self._groups, self._is_over, place)
        driver = Driver(self._orchestrator, event, envelope, port, owner=self._owner, opened=True)
        drivers[one.index] = driver
        try:
            if row.phase is Phase.UNDOING:
                await driver.undo(Phase.FAILED, "", "")  # the turn answers with what was decided
            elif _is_late(self._orchestrator.deadline, row):
                await driver.expire()
            else:
                await driver.drive()
        except Postponed as postponed:
            return self._failed(one, postponed.why, postponed)
        except EventIdReused:
            return self._reused(one)
        except NeedsOwn:
            return _Own(one, "it waits, or calls the outside")
        except SagaStuck as stuck:
            return _Own(one, f"stuck: {stuck}")
        except Exception as bug:
            return self._buggy(one, bug)
        return None

    def _buggy(self, one: _Given, bug: BaseException) -> _Own:
        """An author's code may raise anything; in an execution of its own a person sees it, and a fixed one goes on."""
        self._faults.failed(f"{self._saga(one)} fails", bug, waiting=[self._saga(one)])
        return _Own(one, error_text(bug))

    def _reused(self, one: _Given) -> _Letter:
        return _Letter(one.place, one.envelope.text.encode(), id_reused(one.envelope.event_id))

    def _saga(self, one: _Enveloped) -> str:
        return own_workflow_id(self._orchestrator.__name__, one.envelope.event_id)

    def _failed(self, one: _Given, why: PostponeReason, postponed: Postponed | None = None) -> _Fate:
        if postponed is not None and postponed.__cause__ is not None:
            self._faults.failed(f"{self._saga(one)} fails in a wave", postponed.__cause__, waiting=[self._saga(one)])
        # In a large wave being slow says only that there is much to do: the next one is smaller.
        failures = one.place.failures + (
            why is PostponeReason.FAILED or (why is PostponeReason.SLOW and self._is_small)
        )
        losses = one.place.losses + (why is PostponeReason.LOST)
        if failures >= _MOST_FAILURES or losses >= _MOST_LOSSES:
            return _Own(one, f"left {failures + losses} times, at last as {postponed or why.value}")
        return one.left(why)

    def _is_over(self) -> bool:
        return monotonic() - self._began > _SOFT

    async def _give_away(self, own: Sequence[_Own]) -> list[PostponedItem]:
        """Make sure that each has an execution of its own; those that have none yet are left."""
        left = [one.given.left(PostponeReason.LOST) for one in own[_OWN_AT_ONCE:]]
        started = await asyncio.gather(*(self._ensure_own(one) for one in own[:_OWN_AT_ONCE]))
        return [*left, *(one for one in started if one is not None)]

    async def _ensure_own(self, own: _Own) -> PostponedItem | None:
        name, envelope = self._orchestrator.__name__, own.given.envelope
        try:
            execution = await ensure_own_execution(self._client, name, envelope, self._task_queue)
            if own.given.is_open:
                await self._hand_over(saga_id(name, envelope.event_id), execution)
        except Exception as fault:
            self._faults.failed(f"no execution of its own for {name}/event/{envelope.event_id}", fault)
            return own.given.left(PostponeReason.LOST)
        _log.info("%s has an execution of its own: %s", envelope.event_id, own.why)
        return None

    async def _hand_over(self, key: UUID, execution: OwnExecution) -> None:
        """Say who drives it now: while this partition runs, nobody else would look after what it owns."""
        values = {"key": key, "own": execution.workflow_id, "run": execution.run_id or "", "partition": self._owner[0]}
        async with self._steps.database.transaction() as connection:
            await connection.execute(_HAND_OVER, values)

    async def _came_back(self, sagas: Sequence[UUID]) -> None:
        """Sagas whose driver came back without an end have not killed it."""
        if not sagas:
            return
        statement = update(saga).where(saga.c.id.in_(sagas), saga.c.drives > 0).values(drives=saga.c.drives - 1)
        try:
            async with self._steps.database.transaction() as connection:
                await connection.execute(statement)
        except Exception as fault:  # they count as one drive more, which does no harm
            self._faults.failed("drives could not be taken back", fault)

    async def _keep(self, letter: _Letter) -> None:
        cut = pieces(
            letter.raw,
            source=letter.place.door or names.EVENT_SIGNAL,
            position=letter.place.position,
            code=letter.fault.code,
            reason=letter.fault.message,
        )
        for piece in cut:
            await keep_piece(
                self._steps.database,
                door=piece.door,
                workflow_id=self._owner[0],
                run_id=self._run_id,
                position=piece.position,
                code=piece.code,
                reason=piece.reason,
                size=piece.size,
                offset=piece.offset,
                raw=piece.raw,
            )


_HAND_OVER = (
    update(saga)
    .where(
        saga.c.id == bindparam("key"),
        saga.c.owner_workflow_id == bindparam("partition"),
        saga.c.phase.in_((Phase.FORWARD.value, Phase.UNDOING.value)),
    )
    .values(owner_workflow_id=bindparam("own"), owner_first_run_id=bindparam("run"))
)

_unheard: set["asyncio.Task[_Fate]"] = set()
"""Drives that went on when their wave was over."""


def wave_activity(steps: StoreSteps, client: Client, task_queue: str) -> Callable[..., Any]:
    """The activity of a partition, for a Temporal `Worker`."""
    odds: defaultdict[str, Odds] = defaultdict(Odds)

    @activity.defn(name=names.DRIVE_WAVE)
    async def drive_wave(*arguments: RawValue) -> WaveReply:
        info = activity.info()
        orchestrator = steps.catalog.orchestrators.get(info.workflow_type or "")
        if orchestrator is None or not names.is_partition(info.workflow_id or "") or not arguments:
            raise ApplicationError("only a partition drives waves", type="saga.required", non_retryable=True)
        command = WaveCommand.model_validate_json(arguments[0].payload.data)
        wave = Wave(
            steps,
            client,
            task_queue,
            orchestrator,
            owner=(info.workflow_id or "", command.first_run_id),
            run_id=info.workflow_run_id or "",
            odds=odds[orchestrator.__name__],
        )
        try:
            return await wave.drive(command, [raw.payload.data for raw in arguments[1:]])
        except Exception as fault:
            kind = AWAY if is_lost(fault) else None
            waiting = tuple(f"{info.workflow_id}/{info.workflow_run_id}/{place.position}" for place in command.places)
            raise attempt_failed(fault, steps.databases, final=True, kind=kind, waiting=waiting) from fault

    return drive_wave


def _is_late(deadline: timedelta | None, row: OpenSaga) -> bool:
    return deadline is not None and row.age > deadline
