"""Group commit: steps of several sagas in one transaction are all done or none is, whatever other drivers do."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Text, bindparam, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from orchestrator import Transaction
from orchestrator.drive.driver import Driver
from orchestrator.protocol.commands import (
    BeginUndoCommand,
    Opening,
    Phase,
    SagaRef,
    StepCommand,
    StepDone,
    StepReply,
    UndoPlan,
)
from orchestrator.protocol.messages.envelope import saga_id, wrap
from orchestrator.store.core.database import Database
from orchestrator.store.core.driver_text import DriverText
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.saga.fence import run_step
from orchestrator.store.saga.group_commit import can_join_group, run_step_group
from orchestrator.store.saga.opening import open_sagas
from orchestrator.store.saga.steps import StoreSteps
from tests.cast import Act, Script, box, fails, refuses
from tests.cast_events import CoinsMoveRequested
from tests.house import CATALOG, Holdings, eventually, rows
from tests.orchestrators import CoinsMove
from tests.store.lost_answers import answers_to_commits_lost
from tests.store.pacing import PacedSteps, Pacer, driver_of, how_many_wait, stop_inside_operations, until_stopped
from tests.store.test_two_drivers import check_one_outcome

_whose: ContextVar[str] = ContextVar("whose", default="")


class _Base(DeclarativeBase):
    """Declarative base for tables that belong to no application."""


class Token(_Base):
    """A row with a unique name."""

    __tablename__ = "token"
    name: Mapped[str] = mapped_column(primary_key=True)


EVENT = CoinsMoveRequested(source="a", target="b", coins=10)
TIME = datetime(2026, 1, 1, tzinfo=UTC)
FORWARD_POINTS = [f"{where} step {number}" for number in (1, 2, 3) for where in ("before", "inside", "after")]
BACK_POINTS = [
    "before begin undo",
    "after begin undo",
    "inside undo 3",
    "after undo 3",
    "inside undo 1",
    "after finish",
]


@pytest.fixture(autouse=True)
def skip_sqlite(database: Database) -> None:
    """Skip SQLite, which has no group commit."""
    if database.dialect == "sqlite":
        pytest.skip("on SQLite each step has its own transaction")


def ref(event_id: str) -> SagaRef:
    return SagaRef(id=saga_id("CoinsMove", event_id), orchestrator="CoinsMove", event_id=event_id)


def opening(event_id: str) -> Opening:
    return Opening(saga=ref(event_id), envelope=wrap(EVENT, event_id=event_id, source="tests", time=TIME).text)


async def opened(database: Database, *event_ids: str) -> list[StepCommand]:
    """Open sagas; returns the command of each one's first step."""
    async with database.transaction() as connection:
        await open_sagas(connection, [opening(event_id) for event_id in event_ids], CATALOG, begins=True)
    return [
        StepCommand(
            saga=ref(event_id),
            number=1,
            operation="cast.take",
            arguments={"name": "a", "coins": 10},
            event_time=TIME.isoformat(),
        )
        for event_id in event_ids
    ]


async def run_group(database: Database, commands: list[StepCommand]) -> list[StepReply] | None:
    """Run steps in one transaction, in less time than a lock timeout."""
    async with asyncio.timeout(5):
        return await run_step_group(database, CATALOG, commands)


class GroupedSteps(PacedSteps):
    """Attempts each step together with the same step of another saga and, if that fails, alone."""

    def __init__(self, database: Database, pacer: Pacer, other: SagaRef, *, other_first: bool) -> None:
        super().__init__(database, CATALOG, pacer)
        self.other = other
        self.other_first = other_first
        self.grouped = 0

    async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
        beside = command.model_copy(update={"saga": self.other})

        async def attempted() -> StepReply:
            both = [beside, command] if self.other_first else [command, beside]
            replies = await run_step_group(self.database, self.catalog, both)
            if replies is not None:
                self.grouped += 1
                return replies[both.index(command)]
            return await run_step(self.database, self.catalog, command)

        return await self._paced(f"step {command.number}", attempted)


def grouped_driver(database: Database, event_id: str, other: str, pacer: Pacer, *, other_first: bool) -> Driver:
    """A driver whose saga has been opened already, as in a wave."""
    envelope = wrap(EVENT, event_id=event_id, source="tests", time=TIME)
    steps = GroupedSteps(database, pacer, ref(other), other_first=other_first)
    return Driver(CoinsMove, EVENT, envelope, steps, opened=True)


@pytest.mark.parametrize("forward_point", FORWARD_POINTS)
@pytest.mark.parametrize(
    "other_first", [False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["this saga first", "the other first"]
)
async def test_one_of_two_grouped_sagas_is_undone_by_another_driver_at_each_pair_of_points(
    stocked: Database, forward_point: str, other_first: bool
) -> None:
    stop_inside_operations()
    for back_point in BACK_POINTS:
        for forward_goes_first in (True, False):
            case = f"forward {forward_point}, back {back_point}, forward goes on first: {forward_goes_first}"
            before = await Holdings.of(stocked)
            event_id = f"{forward_point} {back_point} {forward_goes_first}".replace(" ", "-")
            other = f"{event_id}-other"
            await opened(stocked, event_id, other)
            forward_pacer, back_pacer = Pacer(forward_point), Pacer(back_point)

            forward = asyncio.create_task(
                grouped_driver(stocked, event_id, other, forward_pacer, other_first=other_first).drive()
            )
            await until_stopped(stocked, forward_pacer, forward)
            undoing = driver_of(stocked, CoinsMove, EVENT, event_id, back_pacer, time=TIME)
            back = asyncio.create_task(undoing.undo(Phase.CANCELLED, "saga.cancelled", "by a test"))
            await until_stopped(stocked, back_pacer, back)
            first, second = (forward_pacer, back_pacer) if forward_goes_first else (back_pacer, forward_pacer)
            first.go_on.set()
            await until_stopped(stocked, Pacer(), forward if forward_goes_first else back)
            second.go_on.set()
            async with asyncio.timeout(20):
                outcomes = list(await asyncio.gather(forward, back))

            ended = await driver_of(stocked, CoinsMove, EVENT, other, time=TIME).drive()
            assert ended.phase is Phase.COMPLETED, case
            await check_one_outcome(stocked, before.moved("a", "b", 10), outcomes, case)


@pytest.mark.parametrize("point", FORWARD_POINTS)
async def test_two_drivers_go_forward_one_of_them_in_a_group(stocked: Database, point: str) -> None:
    """The driver in the group is stopped while the other runs to the end."""
    stop_inside_operations()
    before = await Holdings.of(stocked)
    await opened(stocked, "twice", "other")
    pacer = Pacer(point)
    first = asyncio.create_task(grouped_driver(stocked, "twice", "other", pacer, other_first=True).drive())
    await until_stopped(stocked, pacer, first)

    second = asyncio.create_task(driver_of(stocked, CoinsMove, EVENT, "twice", time=TIME).drive())
    await until_stopped(stocked, Pacer(), second)
    pacer.go_on.set()
    async with asyncio.timeout(20):
        outcomes = list(await asyncio.gather(first, second))
    assert (await driver_of(stocked, CoinsMove, EVENT, "other", time=TIME).drive()).phase is Phase.COMPLETED

    assert (await check_one_outcome(stocked, before.moved("a", "b", 10), outcomes, point)).phase is Phase.COMPLETED
    assert [step.attempts for step in await rows(stocked, saga_step)] == [1] * 6


async def test_grouped_steps_are_done_and_recorded_like_single_ones(stocked: Database) -> None:
    commands = await opened(stocked, "one", "two", "three")

    replies = await run_group(stocked, commands)
    alone = [await run_step(stocked, CATALOG, command) for command in commands]

    assert replies == alone == [StepDone(number=1, operation="cast.take", result=10)] * 3
    assert Script.runs == ["take"] * 3
    assert (await Holdings.of(stocked)).boxes == {"a": 970, "b": 0}


async def decide_undo(database: Database, event_id: str) -> None:
    """Decide that a saga is undone."""
    async with database.transaction() as connection:
        await connection.execute(update(saga).where(saga.c.event_id == event_id).values(phase="undoing"))


async def do_step(database: Database, event_id: str) -> None:
    """Do a saga's step, as another driver would."""
    [command] = await opened(database, event_id)
    await run_step(database, CATALOG, command)


@pytest.mark.parametrize("interfere", [decide_undo, do_step])
@pytest.mark.parametrize("which", ["one", "two", "three"])
async def test_no_step_of_a_group_is_done_if_one_may_not_run(
    stocked: Database, interfere: Callable[[Database, str], asyncio.Future[None]], which: str
) -> None:
    commands = await opened(stocked, "one", "two", "three")
    await interfere(stocked, which)
    before, recorded = await Holdings.of(stocked), await rows(stocked, saga_step)

    assert await run_group(stocked, commands) is None

    assert (before, recorded) == (await Holdings.of(stocked), await rows(stocked, saga_step))


async def swallows(tx: Transaction) -> None:
    """Swallow a database error, after which the transaction can only roll back."""
    with suppress(DBAPIError):
        await (await tx.connection()).execute(text("SELECT no_such_column FROM saga"))


async def swallows_a_flush(tx: Transaction) -> None:
    """Swallow the error of a failed flush, after which SQLAlchemy has rolled back."""
    tx.add(Token(name="twice"))
    with suppress(IntegrityError):
        await tx.flush()


async def swallows_a_flush_and_goes_on(tx: Transaction) -> None:
    """Swallow a failed flush, make the session usable again and begin another transaction."""
    await swallows_a_flush(tx)
    await tx.run_sync(lambda session: session.rollback())
    await (await tx.connection()).execute(select(box.c.coins))


async def rolls_back_by_the_driver(tx: Transaction) -> None:
    """Roll back through the database driver, bypassing the session and the connection."""
    raw = await (await tx.connection()).get_raw_connection()
    assert raw.driver_connection is not None
    await raw.driver_connection.execute("ROLLBACK")


async def sets_something(tx: Transaction) -> None:
    """Change a setting for the transaction, in which the next operation belongs to another saga."""
    await (await tx.connection()).execute(text("SELECT set_config('app.tenant', 'mine', true)"))


async def changes_the_connection(tx: Transaction) -> None:
    """Change an option of the connection, which affects everything that follows on it."""
    await (await tx.connection()).execution_options(schema_translate_map={None: "elsewhere"})


@pytest.fixture
async def with_a_token(stocked: Database) -> None:
    async with stocked.transaction() as connection:
        await connection.execute(text("CREATE TABLE token (name TEXT PRIMARY KEY)"))
        await connection.execute(text("INSERT INTO token VALUES ('twice')"))


@pytest.mark.parametrize("which", [1, 2, 3])
@pytest.mark.parametrize(
    "act",
    [
        refuses(),
        fails(times=99),
        swallows,
        swallows_a_flush,
        swallows_a_flush_and_goes_on,
        rolls_back_by_the_driver,
        sets_something,
        changes_the_connection,
    ],
    ids=["refused", "failed", "swallowed", "flush", "flush and on", "driver", "setting", "connection"],
)
async def test_no_effect_of_a_group_remains_if_one_step_fails(
    stocked: Database, with_a_token: None, act: Act, which: int
) -> None:
    commands = await opened(stocked, "one", "two", "three")
    before = await Holdings.of(stocked)
    called = 0

    async def act_on_one_call(tx: Transaction) -> None:
        nonlocal called
        called += 1
        if called == which:
            await act(tx)

    Script.after["take"] = act_on_one_call

    assert await run_group(stocked, commands) is None

    assert (before, []) == (await Holdings.of(stocked), await rows(stocked, saga_step))


async def test_each_operation_runs_in_the_context_of_its_own_saga(stocked: Database) -> None:
    commands = await opened(stocked, "one", "two", "three")
    contexts = [copy_context() for _ in commands]
    for number, context in enumerate(contexts):
        context.run(_whose.set, f"saga {number}")
    seen: list[str] = []

    async def look(_: Transaction) -> None:
        seen.append(_whose.get())
        _whose.set("changed")

    Script.after["take"] = look

    assert await run_step_group(stocked, CATALOG, commands, contexts) is not None
    assert seen == ["saga 0", "saga 1", "saga 2"]
    assert _whose.get() == ""


async def test_a_group_that_would_wait_for_a_lock_is_split(stocked: Database) -> None:
    commands = await opened(stocked, "one", "two")
    async with stocked.transaction() as connection:
        await connection.execute(update(box).values(coins=box.c.coins))
        assert await run_group(stocked, commands) is None

    assert await run_group(stocked, commands) is not None


async def test_a_group_whose_commit_answer_was_lost_returns_its_recorded_results(stocked: Database) -> None:
    commands = await opened(stocked, "one", "two")
    with answers_to_commits_lost(stocked, {1}) as lost:
        assert await run_group(stocked, commands) is None
    assert lost == [1]

    replies = [await run_step(stocked, CATALOG, command) for command in commands]

    assert replies == [StepDone(number=1, operation="cast.take", result=10)] * 2
    assert (await Holdings.of(stocked)).boxes == {"a": 980, "b": 0}


async def test_only_steps_of_opened_sagas_are_grouped(stocked: Database) -> None:
    [command] = await opened(stocked, "one")
    unopened = command.model_copy(update={"opening": Opening(saga=command.saga, envelope="{}")})

    assert can_join_group(stocked, CATALOG, command)
    assert not can_join_group(stocked, CATALOG, unopened)


async def test_an_undo_waits_for_steps_that_are_recorded_in_a_group(
    stocked: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step is blocked after the guard of the other has passed."""
    settings = "set_config('lock_timeout', '10s', true), set_config('orchestrator.group_commit', :token, true)"
    begin = text(f"SELECT {settings}")
    monkeypatch.setattr(
        "orchestrator.store.saga.group_commit._BEGIN", DriverText(begin.bindparams(bindparam("token", type_=Text())))
    )
    # Their rows are locked in this order.
    undone, blocked = sorted(("one", "two"), key=lambda event_id: ref(event_id).id)
    commands = await opened(stocked, undone, blocked)
    begin_undo = BeginUndoCommand(
        opening=opening(undone), ends_as=Phase.CANCELLED, error_code="saga.cancelled", message="by a test"
    )
    async with stocked.transaction() as connection:
        await connection.execute(select(saga.c.id).where(saga.c.event_id == blocked).with_for_update())
        both = asyncio.create_task(run_group(stocked, commands))
        await until_stopped(stocked, Pacer(), both)
        undoing = asyncio.create_task(StoreSteps(stocked, CATALOG).begin_undo(begin_undo))
        await eventually(lambda: _is(undoing.done(), stocked, waiting=2), "the undo waits or is done")

    assert await both is not None
    plan = await asyncio.wait_for(undoing, 10)
    assert isinstance(plan, UndoPlan)
    assert [step.operation for step in plan.steps] == ["cast.take"]


async def _is(done: bool, database: Database, *, waiting: int) -> bool:
    return done or await how_many_wait(database) >= waiting
