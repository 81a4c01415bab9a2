"""The fence of a remote step: its row in the remote database decides, and its row at home follows.

Before anything is done remotely, the row at home is `attempting`, inserted behind the guard like any step's. The remote
row is inserted by whichever comes first: an attempt, in the transaction of its effect; or an undo, as `barred`, so that
an attempt in flight can no longer have an effect. The state of the remote row is then copied home, where it replaces
`attempting` (or, once the step is undone, `done`) by compare-and-set. A driver may die after any of these transactions:
the next driver reads the row at home, then the remote row, and continues from there.

A query has no effect and therefore no remote row: its result is recorded at home before `handle` continues with it.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.protocol.commands import StepState
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.saga.opening import insert_into
from orchestrator.store.saga.step_rows import NewStep

R = TypeVar("R")

FENCE = (
    saga_step.c.attempt_token,
    saga_step.c.operation,
    saga_step.c.arguments,
    saga_step.c.state,
    saga_step.c.result,
    saga_step.c.error,
    saga_step.c.attempts,
    saga_step.c.skipped_by,
    saga_step.c.skip_reason,
)
"""The columns of a remote row that are read."""
_REPLACES = {
    StepState.DONE: (StepState.ATTEMPTING,),
    StepState.REFUSED: (StepState.ATTEMPTING,),
    StepState.BARRED: (StepState.ATTEMPTING,),
    # The step may be `done` at home, recorded by an attempt whose driver was slower than the one that undid the step.
    StepState.UNDONE: (StepState.ATTEMPTING, StepState.DONE),
    StepState.SKIPPED: (StepState.ATTEMPTING, StepState.DONE),
}
"""The states at home that a remote state replaces."""


class Unsettled(Exception):
    """A transition cannot be decided yet, because an irreversible remote step may be done but not recorded at home."""

    def __init__(self, saga_id: UUID, number: int) -> None:
        self.saga_id = saga_id
        self.number = number
        super().__init__()


async def once_settled(databases: Databases, decide: Callable[[], Awaitable[R]]) -> R:
    """Run a decision; whenever a remote step must be settled first, settle it and run the decision again."""
    while True:
        try:
            return await decide()
        except Unsettled as unsettled:
            row = await home_row(databases.home, unsettled.saga_id, unsettled.number)
            if row is not None and row.state == StepState.ATTEMPTING.value:
                await _settle(databases, row)


async def home_row(home: Database, saga_id: UUID, number: int) -> Row[Any] | None:
    """Return a step's row at home with its saga's phase as `saga_phase`."""
    phase = select(saga.c.phase).where(saga.c.id == saga_id).scalar_subquery()
    async with home.reading() as connection:
        rows = await connection.execute(
            select(saga_step, phase.label("saga_phase")).where(
                saga_step.c.saga_id == saga_id, saga_step.c.number == number
            )
        )
        return rows.first()


async def has_happened(remote: Database, saga_id: UUID, number: int) -> bool:
    """Whether a step is now done in the remote database; nothing is changed."""
    async with remote.reading() as connection:
        state = await connection.scalar(
            select(saga_step.c.state).where(saga_step.c.saga_id == saga_id, saga_step.c.number == number)
        )
    return state == StepState.DONE.value


async def insert_first(
    connection: AsyncConnection, step: NewStep, state: StepState, **more: Any
) -> tuple[Row[Any], bool]:
    """Insert a step's remote row, or find the existing one; either way the row is locked afterwards.

    Args:
        connection: a transaction in the remote database.
        step: the step and its call.
        state: the state in which the row is inserted.
        more: further columns.

    Returns:
        The row, and whether this call inserted it.
    """
    values = step.values(state)
    insertion = insert_into(connection, saga_step).values(**values, created_at=clock.now(), done_at=clock.now(), **more)
    # As in `fence`: DO NOTHING would not see the row that it has waited for.
    result = await connection.execute(
        insertion.on_conflict_do_update(
            index_elements=[saga_step.c.saga_id, saga_step.c.number], set_={"number": insertion.excluded.number}
        ).returning(*FENCE)
    )
    row = result.one()
    return row, row.attempt_token == values["attempt_token"]


async def bar(remote: Database, step: NewStep) -> Row[Any]:
    """Insert a step's remote row as `barred` unless an attempt came first, and return the row, which is final now."""

    async def insert_it(connection: AsyncConnection) -> Row[Any]:
        return (await insert_first(connection, step, StepState.BARRED))[0]

    return await remote.in_transaction(insert_it)


async def copy_home(home: Database, saga_id: UUID, number: int, remote_row: Any) -> bool:
    """Copy the state of the remote row home. False: the row at home has a state that it does not replace."""
    state = StepState(remote_row.state)
    now = clock.now()
    values: dict[str, Any] = {"state": state.value}
    match state:
        case StepState.DONE | StepState.REFUSED:
            values |= {
                "result": remote_row.result,
                "error": remote_row.error,
                "attempts": remote_row.attempts,
                "done_at": now,
            }
        case StepState.UNDONE:
            values |= {"result": remote_row.result, "undone_at": now, "undo_attempts": saga_step.c.undo_attempts + 1}
        case StepState.SKIPPED:
            values |= {"skipped_by": remote_row.skipped_by, "skip_reason": remote_row.skip_reason, "done_at": now}
        case _:
            values |= {"done_at": now}

    async def copy(connection: AsyncConnection) -> bool:
        copied = await connection.execute(
            update(saga_step)
            .where(
                saga_step.c.saga_id == saga_id,
                saga_step.c.number == number,
                saga_step.c.state.in_([replaced.value for replaced in _REPLACES[state]]),
            )
            .values(values)
        )
        return copied.rowcount == 1

    return await home.in_transaction(copy)


async def _settle(databases: Databases, row: Any) -> None:
    """Find out whether a remote step is done; if it is not, bar it, so that it never will be."""
    remote_row = await bar(databases.named(row.database), NewStep.copy_of(row))
    await copy_home(databases.home, row.saga_id, row.number, remote_row)
