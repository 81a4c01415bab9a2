"""An operator's decisions: cancel a saga that no execution drives, or skip a step and let the saga continue.

These are transitions like the others: each locks the saga's row and reads the steps in the *next* statement. A
compensation holds that row under a share lock until it commits, so when a skip and a compensation compete, one comes
first and the other finds nothing to do. The rows record who decided, and why.
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
from orchestrator.store.saga.step_rows import KINDS_WITH_EFFECT, NewStep, RecordedStep, steps_of
from orchestrator.store.saga.undo import begin_undoing, first_past_undoing

_LOCK_NOT_AVAILABLE = "55P03"


class SkipRefused(OrchestratorError):
    """The step cannot be skipped in its current state; nothing was changed. The message says what can be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """An operator's decision to leave a step as it is, and the reason for it."""

    saga_id: UUID
    number: int
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """The step is skipped, now or by an earlier skip."""

    by: str
    reason: str
    before: bool
    """Whether the step was skipped earlier; `by` and `reason` then come from that skip, and nothing was changed."""


async def cancel_saga(database: Database | Databases, saga_id: UUID, *, by: str) -> Phase:
    """Decide that a saga is undone and ends as cancelled, unless something else has been decided.

    Use it only for sagas that no execution drives. If such a saga were resumed only to be cancelled, it could do
    another step first. The saga's next driver follows the decision that is recorded here.

    Returns:
        The saga's phase now; `forward` if it is past its pivot and so cannot be undone.
    """
    databases = Databases.of(database)

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


async def skip_step(database: Database | Databases, catalog: Catalog, skip: Skip) -> Skipped:
    """Skip a step: in an undoing saga one that is not yet undone, past the pivot one that is not yet done.

    Raises:
        SkipRefused: the step's state does not allow it, or a transaction that locks the saga's row did not end in time.
        Unreachable: the step is in a remote database, whose row must change first but whose address is not known here.
    """
    databases = Databases.of(database)
    home = databases.home
    tries = 0
    try:
        skip = await _skip_remotely(databases, catalog, skip)

        async def decide(connection: AsyncConnection) -> Skipped:
            nonlocal tries
            tries += 1
            skipped = await _decide(connection, catalog, skip)
            # If only the reply to the commit was lost, the retry finds the row that the first attempt wrote.
            is_own = tries > 1 and (skipped.by, skipped.reason) == (storable(skip.by), storable(skip.reason))
            return replace(skipped, before=False) if is_own else skipped

        return await home.in_transaction(decide)
    except DBAPIError as fault:
        if sqlstate(fault) != _LOCK_NOT_AVAILABLE and not (home.dialect == "sqlite" and _is_busy(fault)):
            raise
        raise SkipRefused(
            f"step {skip.number} was not skipped, because another transaction was working on it and did not end in "
            "time; try again"
        ) from fault


async def check_skip(database: Database, catalog: Catalog, saga_id: UUID, number: int) -> None:
    """Check whether a step could be skipped now. The skip itself checks again.

    Raises:
        SkipRefused: the step cannot be skipped.
    """
    async with database.reading() as connection:
        row = (await connection.execute(_saga_row(saga_id))).one()
        step = (await connection.execute(_step(saga_id, number))).first()
        if step is not None and step.state != StepState.SKIPPED.value:
            await _check_allowed(connection, catalog, saga_id, row, step)
        elif step is None:
            raise await _no_such_step(connection, saga_id, number)


async def _skip_remotely(databases: Databases, catalog: Catalog, skip: Skip) -> Skip:
    """Record the skip of a remote step in the remote database first, because the row there decides.

    Whether the step may be skipped is checked before, and cannot change meanwhile: an undoing saga remains undoing
    until the step's remote row is settled, and past the pivot a saga ends only once the step is done remotely.

    Returns:
        The skip that the remote row records; another operator's, if that one came first.
    """
    async with databases.home.reading() as connection:
        row = (await connection.execute(_saga_row(skip.saga_id))).one()
        step = (await connection.execute(_step(skip.saga_id, skip.number))).first()
        if step is None or step.database == HOME or step.kind == "query" or step.state == StepState.SKIPPED.value:
            return skip
        await _check_allowed(connection, catalog, skip.saga_id, row, step)
    by, reason = storable(skip.by), storable(skip.reason)
    is_undoing = row.phase == Phase.UNDOING.value

    async def settle(remote: AsyncConnection) -> Any:
        remote_row, is_inserted = await insert_first(
            remote, NewStep.copy_of(step), StepState.SKIPPED, skipped_by=by, skip_reason=reason
        )
        if is_inserted or not (is_undoing and remote_row.state == StepState.DONE.value):
            return remote_row
        changed = update(saga_step).where(saga_step.c.saga_id == skip.saga_id, saga_step.c.number == skip.number)
        values = {"state": StepState.SKIPPED.value, "skipped_by": by, "skip_reason": reason}
        return (await remote.execute(changed.values(values).returning(*FENCE))).one()

    remote_row = await databases.named(step.database).in_transaction(settle)
    if remote_row.state != StepState.SKIPPED.value:
        # The step cannot be skipped; with the remote state copied home, the check at home says why.
        await copy_home(databases.home, skip.saga_id, skip.number, remote_row)
        return skip
    return replace(skip, by=remote_row.skipped_by, reason=remote_row.skip_reason)


async def _decide(connection: AsyncConnection, catalog: Catalog, skip: Skip) -> Skipped:
    row = (await connection.execute(_locked(skip.saga_id))).one()
    step = (await connection.execute(_step(skip.saga_id, skip.number))).first()
    if step is None:
        raise await _no_such_step(connection, skip.saga_id, skip.number)
    if step.state == StepState.SKIPPED.value:
        return Skipped(by=step.skipped_by or "", reason=step.skip_reason or "", before=True)
    await _check_allowed(connection, catalog, skip.saga_id, row, step)
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
        raise SkipRefused(
            f"step {skip.number} was not skipped, because it has just changed; look at its new state with "
            "`orchestrator status`"
        )
    await connection.execute(update(saga).where(saga.c.id == skip.saga_id).values(progressed_at=clock.now()))
    await connection.execute(
        update(saga)
        .where(saga.c.id == skip.saga_id, saga.c.stuck_step == skip.number)
        .values(stuck_step=None, stuck_error=None, stuck_since=None)
    )
    return Skipped(by=by, reason=reason, before=False)


async def _check_allowed(connection: AsyncConnection, catalog: Catalog, saga_id: UUID, row: Any, step: Any) -> None:
    phase, state = Phase(row.phase), StepState(step.state)
    arguments: dict[str, Any] = json.loads(step.arguments)
    what = f"step {step.number}, {named(step.operation, arguments)},"
    if phase.is_final:
        raise SkipRefused(f"the saga has ended as {phase.value}, so none of its steps can be skipped")
    if phase is Phase.UNDOING:
        _check_has_effect(what, RecordedStep.of(step))
        return
    if not await _is_past_pivot(connection, saga_id, row, step.number):
        raise SkipRefused(
            f"{what} cannot be skipped, because the saga still goes forward and can be undone; fix the cause and "
            "retry, or cancel the saga"
        )
    if state is not StepState.ATTEMPTING:
        raise SkipRefused(f"{what} is {state.value}; past the pivot only a step that is not yet done can be skipped")
    if any(name not in catalog.operations for name in names_in(step.operation, arguments)):
        raise SkipRefused(
            f"{what} cannot be skipped, because this code has no such operation and so cannot tell whether `handle` "
            "needs its result; run the command with the code that has it"
        )
    returned = catalog.called(step.operation, arguments).signature.hints["return"]
    if returned not in (None, type(None)):
        name = getattr(returned, "__name__", str(returned))
        raise SkipRefused(
            f"{what} cannot be skipped, because `handle` needs the {name} that it returns; fix the cause and retry"
        )


def _check_has_effect(what: str, step: RecordedStep) -> None:
    """Refuse to skip a step of an undoing saga unless it has, or may have, an effect to undo."""
    if step.may_have_effect:
        return
    if step.kind not in KINDS_WITH_EFFECT:
        raise SkipRefused(f"{what} cannot be skipped, because it is a {step.kind} and has nothing to undo")
    if step.state is StepState.UNDONE:
        raise SkipRefused(f"{what} is already undone, so there is nothing left to skip")
    raise SkipRefused(f"{what} is {step.state.value} and had no effect, so there is nothing to undo or to skip")


async def _is_past_pivot(connection: AsyncConnection, saga_id: UUID, row: Any, number: int) -> bool:
    if row.pivot_step is not None and row.pivot_step < number:
        return True
    return any(step.is_past_undoing and step.number < number for step in await steps_of(connection, saga_id))


async def _no_such_step(connection: AsyncConnection, saga_id: UUID, number: int) -> SkipRefused:
    known = select(saga_step.c.number).where(saga_step.c.saga_id == saga_id).order_by(saga_step.c.number)
    numbers = [str(number) for number in await connection.scalars(known)]
    existing = f"its steps are {', '.join(numbers)}" if numbers else "it has no steps yet"
    return SkipRefused(f"the saga has no step {number}; {existing}")


def _saga_row(saga_id: UUID) -> Any:
    return select(saga.c.phase, saga.c.pivot_step).where(saga.c.id == saga_id)


def _locked(saga_id: UUID) -> Any:
    return _saga_row(saga_id).with_for_update()


def _step(saga_id: UUID, number: int) -> Any:
    return select(saga_step).where(saga_step.c.saga_id == saga_id, saga_step.c.number == number)


def _is_busy(fault: DBAPIError) -> bool:
    return isinstance(fault, OperationalError) and "locked" in str(fault.orig)
