"""A step in another database: its row there decides, and its row at home follows.

At home the row is `attempting` before anything is done there, behind the guard as any step's. There the row is inserted
first by whoever comes first: by an attempt, in the transaction of its effect; or as `barred` by who undoes, so that no
attempt that is under way can have an effect any more. Whatever is found there is copied home, where `attempting` (and
`done`, once it is undone) gives way to it by compare-and-set. Each of these transactions may be the last one that its
driver lives to see: the next driver reads the row at home, then the row there, and goes on.

A query has no effect, so it has no row there: its answer is recorded at home before `handle` goes on with it.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID, uuid4

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.protocol.commands import StepState
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.saga.opening import insert_into

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
"""What a row there is read as."""
_GIVES_WAY = {
    StepState.DONE: (StepState.ATTEMPTING,),
    StepState.REFUSED: (StepState.ATTEMPTING,),
    StepState.BARRED: (StepState.ATTEMPTING,),
    # Recorded as done by an attempt whose driver was slower than the one that undid it.
    StepState.UNDONE: (StepState.ATTEMPTING, StepState.DONE),
    StepState.SKIPPED: (StepState.ATTEMPTING, StepState.DONE),
}
"""Which states at home give way to one there."""


class Unsettled(Exception):
    """A transition cannot be decided at home yet: a step in another database cannot be undone, and may be done."""

    def __init__(self, saga_id: UUID, number: int) -> None:
        self.saga_id = saga_id
        self.number = number
        super().__init__()


async def once_settled(databases: Databases, decide: Callable[[], Awaitable[R]]) -> R:
    """Decide; again, as often as a step's fate has to be found out first."""
    while True:
        try:
            return await decide()
        except Unsettled as found:
            row = await home_row(databases.home, found.saga_id, found.number)
            if row is not None and row.state == StepState.ATTEMPTING.value:
                await _settle(databases, row)


async def home_row(home: Database, saga_id: UUID, number: int) -> Row[Any] | None:
    """A step's row at home, with `saga_phase`."""
    phase = select(saga.c.phase).where(saga.c.id == saga_id).scalar_subquery()
    async with home.reading() as connection:
        found = await connection.execute(
            select(saga_step, phase.label("saga_phase")).where(
                saga_step.c.saga_id == saga_id, saga_step.c.number == number
            )
        )
        return found.first()


async def has_happened(there: Database, saga_id: UUID, number: int) -> bool:
    """Whether a step's effect stands there just now; nothing is changed."""
    async with there.reading() as connection:
        state = await connection.scalar(
            select(saga_step.c.state).where(saga_step.c.saga_id == saga_id, saga_step.c.number == number)
        )
    return state == StepState.DONE.value


async def insert_first(connection: AsyncConnection, step: Any, state: StepState, **more: Any) -> tuple[Row[Any], bool]:
    """Insert a step's row there, or meet the one that is; either way it is locked now.

    Args:
        connection: a transaction there.
        step: the step's row at home, or what it is made of.
        state: what it is inserted as.
        more: further columns.

    Returns:
        The row, and whether it was inserted now.
    """
    token = uuid4()
    insertion = insert_into(connection, saga_step).values(
        saga_id=step.saga_id,
        number=step.number,
        kind=step.kind,
        operation=step.operation,
        database=step.database,
        arguments=step.arguments,
        digest=step.digest,
        irreversible=step.irreversible,
        attempt_token=token,
        state=state.value,
        created_at=clock.now(),
        done_at=clock.now(),
        **more,
    )
    # As in `fence`: DO NOTHING would not see what it waited for.
    met = await connection.execute(
        insertion.on_conflict_do_update(
            index_elements=[saga_step.c.saga_id, saga_step.c.number], set_={"number": insertion.excluded.number}
        ).returning(*FENCE)
    )
    row = met.one()
    return row, row.attempt_token == token


async def bar(there: Database, step: Any, state: StepState = StepState.BARRED, **more: Any) -> Row[Any]:
    """The step's row there as it stands for good where no attempt has come first; see `insert_first`."""

    async def insert_it(connection: AsyncConnection) -> Row[Any]:
        return (await insert_first(connection, step, state, **more))[0]

    return await there.in_transaction(insert_it)


async def copy_home(home: Database, saga_id: UUID, number: int, there: Any) -> bool:
    """Write at home what the row there says. False: the row at home gives way to it no more."""
    state = StepState(there.state)
    now = clock.now()
    values: dict[str, Any] = {"state": state.value}
    match state:
        case StepState.DONE | StepState.REFUSED:
            values |= {"result": there.result, "error": there.error, "attempts": there.attempts, "done_at": now}
        case StepState.UNDONE:
            values |= {"result": there.result, "undone_at": now, "undo_attempts": saga_step.c.undo_attempts + 1}
        case StepState.SKIPPED:
            values |= {"skipped_by": there.skipped_by, "skip_reason": there.skip_reason, "done_at": now}
        case _:
            values |= {"done_at": now}

    async def copy(connection: AsyncConnection) -> bool:
        copied = await connection.execute(
            update(saga_step)
            .where(
                saga_step.c.saga_id == saga_id,
                saga_step.c.number == number,
                saga_step.c.state.in_([one.value for one in _GIVES_WAY[state]]),
            )
            .values(values)
        )
        return copied.rowcount == 1

    return await home.in_transaction(copy)


async def _settle(databases: Databases, row: Any) -> None:
    """Find out whether a step there is done, so that it never will be if it is not."""
    found = await bar(databases.named(row.database), row)
    await copy_home(databases.home, row.saga_id, row.number, found)
