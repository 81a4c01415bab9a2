"""A person's decisions: a saga that nobody drives is to be undone; a step is left as it is, and the saga goes on.

Transitions like the others: each locks the saga's row and reads the steps in the *next* statement. A compensation holds
that row under a share lock until it commits, so of a skip and a compensation one comes first and the other finds
nothing to do. Who decided, and why, stands on the rows.
"""

import json
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.atomic import named, names_in
from orchestrator.definition.catalog import Catalog
from orchestrator.drive.driver import CANCELLED
from orchestrator.errors import OrchestratorError, storable
from orchestrator.operation import HOME
from orchestrator.protocol.commands import Phase, StepState
from orchestrator.store.connections.errors import sqlstate
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.remote.fence import FENCE, copy_home, insert_first, once_settled
from orchestrator.store.saga.undo import begin_undoing, first_past_undoing, steps_of

_LOCK_NOT_AVAILABLE = "55P03"
_WITH_EFFECT = ("operation", "atomic", "external")
"""Kinds of steps that have something to undo."""


class SkipRefused(OrchestratorError):
    """The step cannot be skipped as it stands; nothing was changed. The message says what can be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """Who leaves which step as it is, and why."""

    saga_id: UUID
    number: int
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """The step is skipped, now or since an earlier skip."""

    by: str
    reason: str
    before: bool
    """Somebody had skipped it before: theirs is what stands on the row, and nothing was changed."""


async def cancel_saga(given: Database | Databases, saga_id: UUID, *, by: str) -> Phase:
    """Decide that a saga is undone and ends as cancelled, unless something else is decided already.

    For one that no execution drives: begun again only to be cancelled, it could first do another step. Whoever drives
    it next follows what stands here.

    Returns:
        Where it stands now: `forward` if it is past its pivot, and only goes on.
    """
    databases = Databases.of(given)

    async def decide(connection: AsyncConnection) -> Phase:
        row = (await connection.execute(_locked(saga_id))).one()
        if row.phase != Phase.FORWARD.value:
            return Phase(row.phase)
        if row.pivot_step is not None:
            return Phase.FORWARD
        if first_past_undoing(saga_id, await steps_of(connection, saga_id)) is not None:
            return Phase.FORWARD
        await begin_undoing(
            connection,
            saga_id,
            ends_as=Phase.CANCELLED,
            error_code=CANCELLED,
            message=f"cancelled by {by}",
            ended_by=storable(by),
        )
        return Phase.UNDOING

    return await once_settled(databases, lambda: databases.home.in_transaction(decide))


async def skip_step(given: Database | Databases, catalog: Catalog, skip: Skip) -> Skipped:
    """Skip a step: of an undoing saga one whose effect is not taken back, past the pivot one that is not done.

    Raises:
        SkipRefused: the step does not stand so, or a transaction that holds the saga's row did not end in time.
        Unreachable: the step is in another database, which has to know first, and its address is not known here.
    """
    databases = Databases.of(given)
    database = databases.home
    tries = 0
    try:
        skip = await _skipped_there(databases, catalog, skip)

        async def decide(connection: AsyncConnection) -> Skipped:
            nonlocal tries
            tries += 1
            skipped = await _decide(connection, catalog, skip)
            # A repeat meets its own skip if only the answer to the commit was lost.
            is_own = tries > 1 and (skipped.by, skipped.reason) == (storable(skip.by), storable(skip.reason))
            return replace(skipped, before=False) if is_own else skipped

        return await database.in_transaction(decide)
    except DBAPIError as fault:
        if sqlstate(fault) != _LOCK_NOT_AVAILABLE and not (database.dialect == "sqlite" and _is_busy(fault)):
            raise
        raise SkipRefused(
            f"step {skip.number} is being worked on just now, and its transaction did not end in time; try again"
        ) from fault


async def check_skip(database: Database, catalog: Catalog, saga_id: UUID, number: int) -> None:
    """Whether a step could be skipped as it stands. The skip itself looks again.

    Raises:
        SkipRefused: it could not.
    """
    async with database.reading() as connection:
        row = (await connection.execute(_standing(saga_id))).one()
        step = (await connection.execute(_step(saga_id, number))).first()
        if step is not None and step.state != StepState.SKIPPED.value:
            await _must_allow(connection, catalog, saga_id, row, step)
        elif step is None:
            raise await _no_such_step(connection, saga_id, number)


async def _skipped_there(databases: Databases, catalog: Catalog, skip: Skip) -> Skip:
    """For a step in another database: have its row there, which decides, say first that it is skipped.

    Whether it may be skipped is looked at before, and does not change meanwhile: an undoing saga stays one until the
    step's row there is settled, and past the pivot it ends only once the step is done there.

    Returns:
        The skip that stands there, somebody else's if theirs was first.
    """
    async with databases.home.reading() as connection:
        row = (await connection.execute(_standing(skip.saga_id))).one()
        step = (await connection.execute(_step(skip.saga_id, skip.number))).first()
        if step is None or step.database == HOME or step.kind == "query" or step.state == StepState.SKIPPED.value:
            return skip
        await _must_allow(connection, catalog, skip.saga_id, row, step)
    by, reason = storable(skip.by), storable(skip.reason)
    goes_back = row.phase == Phase.UNDOING.value

    async def settle(there: AsyncConnection) -> Any:
        met, is_ours = await insert_first(there, step, StepState.SKIPPED, skipped_by=by, skip_reason=reason)
        if is_ours or not (goes_back and met.state == StepState.DONE.value):
            return met
        changed = update(saga_step).where(saga_step.c.saga_id == skip.saga_id, saga_step.c.number == skip.number)
        values = {"state": StepState.SKIPPED.value, "skipped_by": by, "skip_reason": reason}
        return (await there.execute(changed.values(values).returning(*FENCE))).one()

    found = await databases.named(step.database).in_transaction(settle)
    if found.state != StepState.SKIPPED.value:
        await copy_home(databases.home, skip.saga_id, skip.number, found)  # then it cannot be skipped, and is told so
        return skip
    return replace(skip, by=found.skipped_by, reason=found.skip_reason)


async def _decide(connection: AsyncConnection, catalog: Catalog, skip: Skip) -> Skipped:
    row = (await connection.execute(_locked(skip.saga_id))).one()
    step = (await connection.execute(_step(skip.saga_id, skip.number))).first()
    if step is None:
        raise await _no_such_step(connection, skip.saga_id, skip.number)
    if step.state == StepState.SKIPPED.value:
        return Skipped(by=step.skipped_by or "", reason=step.skip_reason or "", before=True)
    await _must_allow(connection, catalog, skip.saga_id, row, step)
    settled = saga_step.c.undone_at if row.phase == Phase.UNDOING.value else saga_step.c.done_at
    by, reason = storable(skip.by), storable(skip.reason)
    swapped = await connection.execute(
        update(saga_step)
        .where(saga_step.c.saga_id == skip.saga_id, saga_step.c.number == skip.number, saga_step.c.state == step.state)
        .values(
            {
                saga_step.c.state: StepState.SKIPPED.value,
                saga_step.c.skipped_by: by,
                saga_step.c.skip_reason: reason,
                settled: clock.now(),
            }
        )
    )
    if swapped.rowcount != 1:
        raise SkipRefused(f"step {skip.number} changed just now, nothing was skipped; look at it again")
    await connection.execute(update(saga).where(saga.c.id == skip.saga_id).values(progressed_at=clock.now()))
    await connection.execute(
        update(saga)
        .where(saga.c.id == skip.saga_id, saga.c.stuck_step == skip.number)
        .values(stuck_step=None, stuck_error=None, stuck_since=None)
    )
    return Skipped(by=by, reason=reason, before=False)


async def _must_allow(connection: AsyncConnection, catalog: Catalog, saga_id: UUID, row: Any, step: Any) -> None:
    phase, state = Phase(row.phase), StepState(step.state)
    arguments: dict[str, Any] = json.loads(step.arguments)
    what = f"step {step.number}, {named(step.operation, arguments)},"
    if phase.is_final:
        raise SkipRefused(f"the saga has ended as {phase.value}, so nothing of it is left to skip")
    if phase is Phase.UNDOING:
        _must_be_undoable(what, step, state)
        return
    if not await _is_past_pivot(connection, saga_id, row, step.number):
        raise SkipRefused(
            f"the saga still goes forward and can be undone, so {what} is not skipped: mend what is wrong and retry, "
            "or cancel the saga"
        )
    if state is not StepState.ATTEMPTING:
        raise SkipRefused(f"{what} is {state.value}: past the pivot only a step that is not done can be skipped")
    if any(name not in catalog.operations for name in names_in(step.operation, arguments)):
        raise SkipRefused(f"{what} is no operation of this code, so nobody can tell whether `handle` needs its result")
    returned = catalog.called(step.operation, arguments).signature.hints["return"]
    if returned not in (None, type(None)):
        name = getattr(returned, "__name__", str(returned))
        raise SkipRefused(
            f"{what} gives a {name} that `handle` goes on with, so it cannot be skipped: mend what is wrong and retry"
        )


def _must_be_undoable(what: str, step: Any, state: StepState) -> None:
    """Refuse unless a step's effect stands, or may stand, and is to be taken back."""
    if step.kind not in _WITH_EFFECT:
        raise SkipRefused(f"{what} has nothing to undo: it is a {step.kind}")
    match state:
        case StepState.DONE:
            return
        case StepState.ATTEMPTING if step.kind == "external" or step.database != HOME:
            return
        case StepState.UNDONE:
            raise SkipRefused(f"{what} is undone already, so nothing of it is left to skip")
        case _:
            raise SkipRefused(f"{what} is {state.value}: it had no effect, so there is nothing to undo or to skip")


async def _is_past_pivot(connection: AsyncConnection, saga_id: UUID, row: Any, number: int) -> bool:
    if row.pivot_step is not None and row.pivot_step < number:
        return True
    return any(step.is_past_undoing and step.number < number for step in await steps_of(connection, saga_id))


async def _no_such_step(connection: AsyncConnection, saga_id: UUID, number: int) -> SkipRefused:
    known = select(saga_step.c.number).where(saga_step.c.saga_id == saga_id).order_by(saga_step.c.number)
    numbers = [str(one) for one in await connection.scalars(known)]
    have = f"its steps are {', '.join(numbers)}" if numbers else "it has none yet"
    return SkipRefused(f"the saga has no step {number}: {have}")


def _standing(saga_id: UUID) -> Any:
    return select(saga.c.phase, saga.c.pivot_step).where(saga.c.id == saga_id)


def _locked(saga_id: UUID) -> Any:
    return _standing(saga_id).with_for_update()


def _step(saga_id: UUID, number: int) -> Any:
    return select(saga_step).where(saga_step.c.saga_id == saga_id, saga_step.c.number == number)


def _is_busy(fault: DBAPIError) -> bool:
    return isinstance(fault, OperationalError) and "locked" in str(fault.orig)
