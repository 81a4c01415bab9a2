"""The fence, the guard and the beginning of an undo: one rule per test, with real concurrent transactions."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, ExceptionContext, delete, event, insert, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from orchestrator import Transaction, TransactionMisuse
from orchestrator.drive.driver import Driver, EventIdReused, SagaStuck
from orchestrator.protocol.commands import (
    Decided,
    Opening,
    Phase,
    SagaRef,
    StepCommand,
    StepDone,
    StepRefused,
    StepReply,
)
from orchestrator.protocol.messages.envelope import read, saga_id, wrap
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_outbox, saga_step
from orchestrator.store.saga.fence import SagaMissing, TransactionLost, run_step
from orchestrator.store.saga.opening import open_sagas
from tests.cast import Gate, Script, box, fails, refuses, tables
from tests.cast_events import (
    CoinsMoveRequested,
    LetterRequested,
    ManyNotesRequested,
    NothingRequested,
    ParallelMoveRequested,
    TimedRequested,
    TippedRequested,
)
from tests.house import CATALOG, Holdings, rows
from tests.orchestrators import CoinsMove, Letter, ManyNotes, Nothing, ParallelMove, Timed, Tipped
from tests.store.pacing import PacedSteps, Pacer, driver_of, until_stopped

EVENT = CoinsMoveRequested(source="a", target="b", coins=10)
TIME = datetime(2026, 1, 1, tzinfo=UTC)


def opening(event_id: str, event: CoinsMoveRequested = EVENT) -> Opening:
    """The opening of a CoinsMove saga."""
    ref = SagaRef(id=saga_id("CoinsMove", event_id), orchestrator="CoinsMove", event_id=event_id)
    return Opening(saga=ref, envelope=wrap(event, event_id=event_id, source="tests", time=TIME).text)


def first_step(event_id: str = "one", coins: int = 10) -> StepCommand:
    """The command for step 1 of CoinsMove."""
    opened = opening(event_id)
    return StepCommand(
        saga=opened.saga,
        number=1,
        operation="cast.take",
        arguments={"name": "a", "coins": coins},
        event_time="2026-01-01T00:00:00+00:00",
        opening=opened,
    )


async def test_a_repeated_step_returns_its_recorded_result(stocked: Database) -> None:
    first = await run_step(stocked, CATALOG, first_step())
    again = await run_step(stocked, CATALOG, first_step())

    assert first == again == StepDone(number=1, operation="cast.take", result=10)
    assert Script.runs == ["take"]
    assert (await Holdings.of(stocked)).boxes == {"a": 990, "b": 0}


async def test_a_recorded_refusal_stays_even_if_the_operation_would_now_succeed(stocked: Database) -> None:
    Script.before["take"] = refuses("box.empty")
    first = await run_step(stocked, CATALOG, first_step())
    Script.clear()

    again = await run_step(stocked, CATALOG, first_step())

    assert first == again
    assert isinstance(again, StepRefused)
    assert again.code == "box.empty"
    assert Script.runs == []


async def test_a_refusal_rolls_back_what_its_operation_wrote(stocked: Database) -> None:
    before = await Holdings.of(stocked)
    Script.after["take"] = refuses()

    await run_step(stocked, CATALOG, first_step())

    assert before == await Holdings.of(stocked)


async def test_a_failed_attempt_leaves_nothing_and_the_next_one_succeeds(stocked: Database) -> None:
    Script.after["take"] = fails(times=1)
    with pytest.raises(RuntimeError):
        await run_step(stocked, CATALOG, first_step())
    assert await rows(stocked, saga_step) == []
    assert await rows(stocked, saga) == []

    reply = await run_step(stocked, CATALOG, first_step(), attempt=2)

    assert isinstance(reply, StepDone)
    assert [row.attempts for row in await rows(stocked, saga_step)] == [2]


@pytest.mark.parametrize("ends", ["commits", "rolls back"])
async def test_a_second_driver_waits_for_the_first_and_then_sees_its_row(stocked: Database, ends: str) -> None:
    gate = Gate()
    Script.after["take"] = gate
    first = asyncio.create_task(run_step(stocked, CATALOG, first_step()))
    await gate.reached.wait()
    second = asyncio.create_task(run_step(stocked, CATALOG, first_step()))
    await until_stopped(stocked, Pacer(), second)
    assert not second.done()

    if ends == "rolls back":
        Script.clear()
        first.cancel()
    gate.opened.set()
    await asyncio.gather(first, return_exceptions=True)

    assert await second == StepDone(number=1, operation="cast.take", result=10)
    assert (await Holdings.of(stocked)).boxes["a"] == 990


async def test_an_undo_waits_for_an_open_step_and_then_undoes_it(stocked: Database) -> None:
    before = await Holdings.of(stocked)
    gate = Gate()
    Script.after["put"] = gate
    finish = Pacer("before finish")  # PostgreSQL may grant the row lock to the finish before the undo
    forward = asyncio.create_task(driver_of(stocked, CoinsMove, EVENT, "one", finish).drive())
    await gate.reached.wait()
    pacer = Pacer()
    undoing = driver_of(stocked, CoinsMove, EVENT, "one", pacer).undo(Phase.CANCELLED, "saga.cancelled", "")
    back = asyncio.create_task(undoing)
    await until_stopped(stocked, pacer, back)
    # It waits for the step, and not for the finish, which locks the saga's row too.
    assert pacer.passed == ["before begin undo"]

    gate.opened.set()
    assert (await back).phase is Phase.CANCELLED
    finish.go_on.set()

    assert (await forward).phase is Phase.CANCELLED
    assert before == await Holdings.of(stocked)
    assert "take_out" in Script.runs


async def test_a_step_that_comes_after_the_undo_does_not_run(stocked: Database) -> None:
    await driver_of(stocked, CoinsMove, EVENT, "one").undo(Phase.CANCELLED, "saga.cancelled", "before anything ran")

    reply = await run_step(stocked, CATALOG, first_step())

    assert reply == Decided(phase=Phase.CANCELLED)
    assert Script.runs == []
    assert (await Holdings.of(stocked)).boxes == {"a": 1_000, "b": 0}


async def test_a_late_step_of_an_undone_saga_does_not_run_even_if_its_driver_opened_the_saga(
    stocked: Database,
) -> None:
    await run_step(stocked, CATALOG, first_step())
    await driver_of(stocked, CoinsMove, EVENT, "one").undo(Phase.CANCELLED, "saga.cancelled", "between two steps")
    late = first_step().model_copy(update={"number": 2, "operation": "cast.put", "opening": None})

    reply = await run_step(stocked, CATALOG, late)

    assert reply == Decided(phase=Phase.CANCELLED)
    assert "put" not in Script.runs
    assert (await Holdings.of(stocked)).boxes == {"a": 1_000, "b": 0}


async def test_an_undo_sees_a_pivot_that_commits_while_it_waits(stocked: Database) -> None:
    """The steps are read in the statement after the one that takes the lock, because that one would not see them."""
    gate = Gate()
    Script.after["send_letter"] = gate
    letter = LetterRequested(source="a", coins=1)
    forward = asyncio.create_task(driver_of(stocked, Letter, letter, "one").drive())
    await gate.reached.wait()
    pacer = Pacer()
    undoing = driver_of(stocked, Letter, letter, "one", pacer).undo(Phase.CANCELLED, "saga.cancelled", "")
    back = asyncio.create_task(undoing)
    await until_stopped(stocked, pacer, back)
    assert pacer.passed == ["before begin undo"]

    gate.opened.set()
    outcomes = await asyncio.gather(forward, back)

    assert [outcome.phase for outcome in outcomes] == [Phase.COMPLETED, Phase.COMPLETED]
    assert "give_back" not in Script.runs
    assert (await Holdings.of(stocked)).boxes["a"] == 999


async def test_a_failure_after_the_pivot_undoes_nothing_and_the_saga_completes(stocked: Database) -> None:
    letter = LetterRequested(source="a", coins=1)
    stop = Pacer("before finish")
    one = asyncio.create_task(driver_of(stocked, Letter, letter, "one", stop).drive())
    await until_stopped(stocked, stop, one)

    outcome = await driver_of(stocked, Letter, letter, "one").undo(Phase.FAILED, "operation.failed", "says the script")
    stop.go_on.set()

    assert await one == outcome
    assert outcome.phase is Phase.COMPLETED
    [row] = await rows(stocked, saga)
    assert (row.phase, row.pivot_step) == ("completed", 2)
    assert "give_back" not in Script.runs


async def test_a_saga_can_be_cancelled_before_it_was_opened(stocked: Database) -> None:
    outcome = await driver_of(stocked, CoinsMove, EVENT, "one").undo(Phase.CANCELLED, "saga.cancelled", "early")

    late = await driver_of(stocked, CoinsMove, EVENT, "one").drive()

    assert outcome == late
    assert outcome.phase is Phase.CANCELLED
    assert Script.runs == []


async def test_a_step_whose_arguments_differ_from_its_record_makes_the_saga_stuck(stocked: Database) -> None:
    await run_step(stocked, CATALOG, first_step(coins=11))

    with pytest.raises(SagaStuck, match=r"recorded cast.take\(.*11.*\), now cast.take\(.*10"):
        await driver_of(stocked, CoinsMove, EVENT, "one").drive()

    [row] = await rows(stocked, saga)
    assert (row.phase, row.stuck_step) == ("forward", 1)
    assert "11" in row.stuck_error


async def test_a_recorded_step_that_handle_no_longer_reaches_makes_the_saga_stuck(stocked: Database) -> None:
    saga_ref = SagaRef(id=saga_id("Nothing", "one"), orchestrator="Nothing", event_id="one")
    envelope = wrap(NothingRequested(refuse=False), event_id="one", source="tests").text
    recorded = first_step().model_copy(update={"saga": saga_ref, "opening": Opening(saga=saga_ref, envelope=envelope)})
    await run_step(stocked, CATALOG, recorded)

    with pytest.raises(SagaStuck, match="handle ended after step 0"):
        await driver_of(stocked, Nothing, NothingRequested(refuse=False), "one").drive()


async def test_an_event_id_reused_for_different_content_is_refused_and_changes_nothing(stocked: Database) -> None:
    await driver_of(stocked, CoinsMove, EVENT, "one").drive()
    before, [row] = await Holdings.of(stocked), await rows(stocked, saga)
    other = CoinsMoveRequested(source="a", target="b", coins=11)

    with pytest.raises(EventIdReused):
        await driver_of(stocked, CoinsMove, other, "one").drive()
    with pytest.raises(EventIdReused):
        await driver_of(stocked, CoinsMove, other, "one").undo(Phase.CANCELLED, "saga.cancelled", "")

    assert before == await Holdings.of(stocked)
    assert [row] == await rows(stocked, saga)


async def test_an_event_id_reused_for_different_content_is_refused_while_the_first_saga_runs(stocked: Database) -> None:
    await run_step(stocked, CATALOG, first_step())
    other = CoinsMoveRequested(source="a", target="b", coins=11)

    with pytest.raises(EventIdReused):
        await driver_of(stocked, CoinsMove, other, "one").drive()

    [row] = await rows(stocked, saga)
    assert row.drives == 1
    assert (await driver_of(stocked, CoinsMove, EVENT, "one").drive()).phase is Phase.COMPLETED


async def test_each_driver_that_begins_is_counted_and_an_ended_saga_is_not_written_again(stocked: Database) -> None:
    stop = Pacer("after step 1")
    one = asyncio.create_task(driver_of(stocked, CoinsMove, EVENT, "one", stop).drive())
    await until_stopped(stocked, stop, one)
    await driver_of(stocked, CoinsMove, EVENT, "one").drive()
    stop.go_on.set()
    await one
    [ended] = await rows(stocked, saga)

    await driver_of(stocked, CoinsMove, EVENT, "one").drive()

    assert ended.drives == 2
    assert [ended] == await rows(stocked, saga)


async def test_the_outcome_and_its_event_are_written_together_or_not_at_all(stocked: Database) -> None:
    """A finish that dies between the outcome and the outbox leaves neither."""

    def die(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "INSERT INTO saga_outbox" in statement:
            raise RuntimeError("dies in the finish")

    event.listen(stocked.engine.sync_engine, "before_cursor_execute", die)
    with pytest.raises(RuntimeError):
        await driver_of(stocked, CoinsMove, EVENT, "one").drive()
    event.remove(stocked.engine.sync_engine, "before_cursor_execute", die)
    [row] = await rows(stocked, saga)
    assert (row.phase, row.outcome) == ("forward", None)
    assert await rows(stocked, saga_outbox) == []

    outcome = await driver_of(stocked, CoinsMove, EVENT, "one").drive()

    [sent] = await rows(stocked, saga_outbox)
    assert sent.event_id == outcome.event["id"]
    assert (await Holdings.of(stocked)).boxes == {"a": 990, "b": 10}


async def test_a_finish_that_does_not_commit_leaves_no_event_in_the_outbox(stocked: Database) -> None:
    engine = stocked.engine.sync_engine

    def watch(connection: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("UPDATE saga SET phase"):
            connection.info["finishing"] = True

    def die(connection: Connection) -> None:
        if connection.info.get("finishing"):
            connection.invalidate()
            raise RuntimeError("dies before the commit")

    event.listen(engine, "before_cursor_execute", watch)
    event.listen(engine, "commit", die)
    with pytest.raises(RuntimeError):
        await driver_of(stocked, CoinsMove, EVENT, "one").drive()
    event.remove(engine, "commit", die)
    event.remove(engine, "before_cursor_execute", watch)

    assert await rows(stocked, saga_outbox) == []
    outcome = await driver_of(stocked, CoinsMove, EVENT, "one").drive()
    assert [sent.event_id for sent in await rows(stocked, saga_outbox)] == [outcome.event["id"]]


async def test_parallel_steps_are_numbered_in_call_order_and_undone_in_reverse(stocked: Database) -> None:
    before = await Holdings.of(stocked)
    Script.before["put"] = refuses()
    move = ParallelMoveRequested(source="a", target="b", coins=5)

    outcome = await driver_of(stocked, ParallelMove, move, "one").drive()

    assert outcome.phase is Phase.FAILED
    assert before == await Holdings.of(stocked)
    steps = sorted(await rows(stocked, saga_step), key=lambda step: step.number)
    assert [(step.number, step.operation, step.state) for step in steps] == [
        (1, "cast.count", "done"),
        (2, "cast.take", "undone"),
        (3, "cast.put", "refused"),
    ]


async def test_a_saga_resumed_by_a_repeated_event_keeps_the_time_of_the_first_event(
    stocked: Database,
) -> None:
    """`handle` takes its time from the event; with the repeat's time, its steps would differ from their records."""
    event_id, event = "timed", TimedRequested()
    stop = Pacer("after step 1")
    early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)
    first = asyncio.create_task(driver_of(stocked, Timed, event, event_id, stop, time=early).drive())
    await until_stopped(stocked, stop, first)

    outcome = await driver_of(stocked, Timed, event, event_id, time=late).drive()
    stop.go_on.set()

    assert await first == outcome
    assert outcome.event["data"] == {"year_day": "2026-01-01"}
    assert [row.drives for row in await rows(stocked, saga)] == [2]


async def test_two_deadlocked_steps_both_succeed_within_their_attempts(stocked: Database, kind: str) -> None:
    """PostgreSQL aborts one of two deadlocked transactions; it is repeated at once, in the same attempt."""
    if kind == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    async with stocked.transaction() as connection:
        await connection.execute(box.insert().values(name="c", coins=5))
    lock_orders = iter((("a", "c"), ("c", "a")))
    order: dict[str, tuple[str, str]] = {}
    both = asyncio.Barrier(2)

    async def lock_both(tx: Transaction) -> None:
        is_repeat = tx.event_id in order
        first, second = order.setdefault(tx.event_id, order.get(tx.event_id) or next(lock_orders))
        await tx.exec(update(box).where(box.c.name == first).values(coins=box.c.coins))
        if not is_repeat:
            await both.wait()
        await tx.exec(update(box).where(box.c.name == second).values(coins=box.c.coins))

    Script.before["write_note"] = lock_both

    def write_note(event_id: str) -> StepCommand:
        command = first_step(event_id)
        return command.model_copy(update={"operation": "cast.write_note", "arguments": {"text": "x"}})

    replies = await asyncio.gather(*(run_step(stocked, CATALOG, write_note(event_id)) for event_id in ("one", "two")))

    assert [reply.kind for reply in replies] == ["done", "done"]
    assert len(Script.runs) == 3


async def test_a_step_of_a_saga_without_a_row_fails_and_names_the_database_setting(stocked: Database) -> None:
    command = first_step().model_copy(update={"opening": None})

    with pytest.raises(SagaMissing, match="ORCHESTRATOR_DATABASE_URL is the database in which"):
        await run_step(stocked, CATALOG, command)

    assert Script.runs == []


async def test_a_failing_compensation_is_retried_and_its_saga_is_shown_as_stuck_meanwhile(stocked: Database) -> None:
    before = await Holdings.of(stocked)
    stop = Pacer("before finish")
    forward = asyncio.create_task(driver_of(stocked, CoinsMove, EVENT, "one", stop).drive())
    await until_stopped(stocked, stop, forward)
    Script.before["take_out"] = fails()
    for _ in range(5):
        with pytest.raises(RuntimeError):
            await driver_of(stocked, CoinsMove, EVENT, "one").undo(Phase.CANCELLED, "saga.cancelled", "")
    [row] = await rows(stocked, saga)
    assert (row.phase, row.stuck_step) == ("undoing", 2)
    assert "the script fails for good" in row.stuck_error

    Script.clear()
    outcome = await driver_of(stocked, CoinsMove, EVENT, "one").undo(Phase.CANCELLED, "saga.cancelled", "")
    stop.go_on.set()

    assert await forward == outcome
    assert before == await Holdings.of(stocked)
    assert (await rows(stocked, saga))[0].stuck_step is None


async def swallows_an_error(tx: Transaction) -> None:
    """What an author might write without knowing that an error ends PostgreSQL's transaction."""
    with contextlib.suppress(DBAPIError):
        await tx.exec(text("SELECT nothing FROM nowhere"))  # type: ignore[call-overload]


async def test_an_operation_that_swallows_a_database_error_is_not_recorded_as_done(
    stocked: Database, kind: str
) -> None:
    """PostgreSQL answers the COMMIT of a failed transaction with a ROLLBACK and no error."""
    before = await Holdings.of(stocked)
    Script.after["put"] = swallows_an_error
    if kind == "sqlite":
        assert (await driver_of(stocked, CoinsMove, EVENT, "one").drive()).phase is Phase.COMPLETED
        assert await Holdings.of(stocked) == before.moved("a", "b", 10)
        return

    with pytest.raises(DBAPIError):
        await driver_of(stocked, CoinsMove, EVENT, "one").drive()

    assert [step.operation for step in await rows(stocked, saga_step)] == ["cast.take"]
    Script.clear()
    await driver_of(stocked, CoinsMove, EVENT, "one").drive()
    assert await Holdings.of(stocked) == before.moved("a", "b", 10)


async def test_a_compensation_that_swallows_a_database_error_is_not_recorded_as_done(
    stocked: Database, kind: str
) -> None:
    if kind == "sqlite":
        pytest.skip("on SQLite a failed statement leaves its transaction usable")
    before = await Holdings.of(stocked)
    Script.before["write_note"] = refuses()
    Script.after["take_out"] = swallows_an_error

    with pytest.raises(DBAPIError):
        await driver_of(stocked, CoinsMove, EVENT, "one").drive()

    assert [step.undo_attempts for step in await rows(stocked, saga_step) if step.operation == "cast.put"] == [1]
    Script.clear()
    assert (await driver_of(stocked, CoinsMove, EVENT, "one").drive()).phase is Phase.FAILED
    assert before == await Holdings.of(stocked)


class Base(DeclarativeBase):
    """Declarative base over the cast's tables."""

    metadata = tables


class Thing(Base):
    """A mapped class, written through the session with `tx.add`."""

    __tablename__ = "thing"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@pytest.mark.parametrize("swallowed", [False, True])
async def test_a_failed_flush_raises_its_own_error_and_is_retried(stocked: Database, swallowed: bool) -> None:
    """SQLAlchemy rolls back by itself after a failed flush, so this is not reported as the author's rollback."""

    async def adds_a_duplicate(tx: Transaction) -> None:
        await tx.exec(insert(Thing).values(id=1, name="first"))
        tx.add(Thing(id=1, name="second"))
        if not swallowed:
            await tx.flush()
            return
        with contextlib.suppress(IntegrityError):
            await tx.flush()

    before = await Holdings.of(stocked)
    async with stocked.transaction() as connection:
        await connection.run_sync(tables.create_all)
    Script.after["put"] = adds_a_duplicate

    with pytest.raises(InvalidRequestError if swallowed else IntegrityError):
        await driver_of(stocked, CoinsMove, EVENT, "one").drive()

    assert [step.operation for step in await rows(stocked, saga_step)] == ["cast.take"]
    Script.clear()
    await driver_of(stocked, CoinsMove, EVENT, "one").drive()
    assert await Holdings.of(stocked) == before.moved("a", "b", 10)


async def test_an_operation_that_makes_sqlite_roll_back_is_not_recorded_as_done(stocked: Database, kind: str) -> None:
    if kind == "postgresql":
        pytest.skip("only SQLite continues in autocommit after it has rolled back")

    async def rolls_back(tx: Transaction) -> None:
        raw = await (await tx.connection()).get_raw_connection()
        assert raw.driver_connection is not None
        await raw.driver_connection.rollback()

    before = await Holdings.of(stocked)
    Script.after["put"] = rolls_back

    with pytest.raises((TransactionLost, TransactionMisuse)):
        await driver_of(stocked, CoinsMove, EVENT, "one").drive()

    Script.clear()
    await driver_of(stocked, CoinsMove, EVENT, "one").drive()
    assert await Holdings.of(stocked) == before.moved("a", "b", 10)


async def test_a_completed_saga_has_a_record_of_each_step_that_handle_reached(stocked: Database) -> None:
    stop = Pacer("before finish")
    one = asyncio.create_task(driver_of(stocked, CoinsMove, EVENT, "one", stop).drive())
    await until_stopped(stocked, stop, one)
    async with stocked.transaction() as connection:
        await connection.execute(delete(saga_step).where(saga_step.c.number == 2))

    stop.go_on.set()

    with pytest.raises(SagaStuck, match="step 2 differs from its record: recorded nothing"):
        await one


async def test_a_saga_whose_event_is_in_any_script_can_fail(stocked: Database) -> None:
    """A character may take three times as many bytes in the failure event as in the event that arrived."""
    name = "é" * 124_000
    message = json.loads(wrap(TippedRequested(name=""), event_id="one", source="tests").text)
    envelope = read(json.dumps({**message, "data": {"name": name}}, ensure_ascii=False))
    Script.before["take"] = refuses()
    driver = Driver(Tipped, TippedRequested(name=name), envelope, PacedSteps(stocked, CATALOG, Pacer()))

    outcome = await driver.drive()

    assert outcome.phase is Phase.FAILED
    assert (await rows(stocked, saga_outbox))[0].event_id == outcome.event["id"]


async def test_handle_runs_on_a_new_instance_each_time(stocked: Database) -> None:
    event = ManyNotesRequested(text="", notes=2)
    stop = Pacer("after step 1")
    one = asyncio.create_task(driver_of(stocked, ManyNotes, event, "one", stop, time=TIME).drive())
    await until_stopped(stocked, stop, one)

    outcome = await driver_of(stocked, ManyNotes, event, "one").drive()  # resumed: handle runs twice in one driver
    stop.go_on.set()

    assert await one == outcome


async def test_a_cancelled_statement_leaves_no_lock_behind(stocked: Database, kind: str) -> None:
    """The lock goes even if the cancel comes in the middle of the statement and a reference to the error is kept."""
    long = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 1000000) SELECT count(*) FROM c"
    held: list[BaseException] = []
    begun = asyncio.Event()

    async def cut_off() -> None:
        try:
            async with stocked.transaction() as connection:
                await connection.execute(update(box).values(coins=0))
                begun.set()
                await connection.execute(text(long if kind == "sqlite" else "SELECT pg_sleep(30)"))
        except BaseException as fault:
            held.append(fault)
            raise

    cut = asyncio.create_task(cut_off())
    await begun.wait()
    await asyncio.sleep(0)
    cut.cancel()
    await asyncio.wait({cut})

    async with asyncio.timeout(10), stocked.transaction() as connection:
        await connection.execute(update(box).values(coins=box.c.coins + 1))
    assert (await Holdings.of(stocked)).boxes == {"a": 1_001, "b": 1}
    assert isinstance(held[0], asyncio.CancelledError)


async def test_openings_in_different_orders_do_not_deadlock(stocked: Database) -> None:
    ids = [f"bulk-{number}" for number in range(50)]

    async def open_all(order: list[str]) -> int:
        async with stocked.transaction() as connection:
            return len(await open_sagas(connection, [opening(event_id) for event_id in order], CATALOG, begins=True))

    for _ in range(5):
        counted = await asyncio.gather(*(open_all(ids if number % 2 else ids[::-1]) for number in range(8)))
        assert counted == [50] * 8
    assert {row.drives for row in await rows(stocked, saga)} == {40}


async def test_a_step_costs_two_statements_besides_its_own(stocked: Database) -> None:
    """Guard and fence are one statement; the result is another, which also detects a lost transaction."""
    sent: list[str] = []

    def record_statement(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if not statement.startswith("BEGIN"):
            sent.append(statement)

    await run_step(stocked, CATALOG, first_step())
    event.listen(stocked.engine.sync_engine, "before_cursor_execute", record_statement)
    without_opening = first_step().model_copy(update={"number": 2, "opening": None})
    await run_step(stocked, CATALOG, without_opening)
    put = without_opening.model_copy(update={"number": 3, "operation": "cast.put"})
    await run_step(stocked, CATALOG, put)
    event.remove(stocked.engine.sync_engine, "before_cursor_execute", record_statement)

    steps, own = 2, 1
    assert len(sent) == steps * (own + 2)


async def start_suspended_step(database: Database) -> tuple["asyncio.Task[StepReply]", Gate, list[str]]:
    """Start step 1 and suspend it as SIGSTOP would, so that PostgreSQL ends its idle transaction.

    Returns:
        The task, the gate at which the step waits, and a list that receives each statement that then fails.
    """
    gate = Gate()
    lost: list[str] = []

    async def suspend(tx: Transaction) -> None:
        if gate.reached.is_set():
            return
        await tx.exec(text("SET LOCAL idle_in_transaction_session_timeout = '100ms'"))  # type: ignore[call-overload]
        await gate(tx)

    def lose(context: ExceptionContext) -> None:
        lost.append(context.statement or "COMMIT")

    Script.after["take"] = suspend
    event.listen(database.engine.sync_engine, "handle_error", lose)
    late = asyncio.create_task(run_step(database, CATALOG, first_step()))
    await gate.reached.wait()
    return late, gate, lost


async def test_a_worker_suspended_inside_a_step_loses_the_step_and_changes_nothing(
    stocked: Database, kind: str
) -> None:
    """PostgreSQL ends the idle transaction and the saga is undone, so the late attempt does nothing."""
    if kind == "sqlite":
        pytest.skip("SQLite has one writer at a time: a suspended worker holds the file until its process ends")
    late, gate, lost = await start_suspended_step(stocked)

    outcome = await driver_of(stocked, CoinsMove, EVENT, "one").undo(Phase.CANCELLED, "saga.cancelled", "")
    gate.opened.set()
    reply = await late

    assert (outcome.phase, reply) == (Phase.CANCELLED, Decided(phase=Phase.CANCELLED))
    assert len(lost) == 1, "the suspended worker's transaction did not commit"
    assert Script.runs == ["take"], "the operation was not run again"
    assert (await Holdings.of(stocked)).boxes == {"a": 1_000, "b": 0}
    assert await rows(stocked, saga_step) == []


async def test_a_step_done_by_another_worker_while_its_own_was_suspended_is_done_once(
    stocked: Database, kind: str
) -> None:
    """The late attempt returns the result that the other worker recorded."""
    if kind == "sqlite":
        pytest.skip("SQLite has one writer at a time: a suspended worker holds the file until its process ends")
    late, gate, lost = await start_suspended_step(stocked)

    other = await run_step(stocked, CATALOG, first_step())
    gate.opened.set()

    assert await late == other == StepDone(number=1, operation="cast.take", result=10)
    assert len(lost) == 1, "the suspended worker's transaction did not commit"
    assert Script.runs == ["take", "take"], "each worker ran it once, and the late attempt did not run it again"
    assert (await Holdings.of(stocked)).boxes == {"a": 990, "b": 0}


async def test_writers_of_one_sqlite_file_are_served_in_order_of_arrival(stocked: Database, kind: str) -> None:
    if kind == "postgresql":
        pytest.skip("on PostgreSQL writers do not queue for the whole database")
    order: list[int] = []

    async def write(number: int) -> None:
        async with stocked.transaction():
            order.append(number)

    async with stocked.transaction():
        tasks = [asyncio.create_task(write(number)) for number in range(50)]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)

    assert order == list(range(50))
