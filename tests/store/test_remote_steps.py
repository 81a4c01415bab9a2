"""A step in another database: both databases record the same outcome, whichever driver dies or comes second."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import inspect

from orchestrator import Contract, DomainEvent, Transaction, Unreachable, UsageError, outbox
from orchestrator.definition.atomic import Atomically
from orchestrator.definition.catalog import AnyOrchestrator
from orchestrator.drive.driver import Driver
from orchestrator.protocol.commands import Outcome, Phase, SagaRef, StepState
from orchestrator.protocol.messages.envelope import Envelope, read, saga_id, wrap
from orchestrator.store.belonging import adopt, check_shared
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import DatabaseMissing, Databases
from orchestrator.store.core.schema import saga_outbox, saga_step
from orchestrator.store.migrations.migrate import migrate
from orchestrator.store.recovery import UndoAnswer, recorded_sagas, undo_if_still_owned, would_undo
from orchestrator.store.saga.intervention import Skip, SkipRefused, cancel_saga, skip_step
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.worker.relay.relay import Relay
from tests.cast import Script, fails, refuses, stock, take
from tests.conftest import KINDS, Kind, new_database
from tests.house import eventually, rows
from tests.store.books import (
    BOOKS,
    CATALOG,
    BookingRequested,
    CountingRequested,
    PairRequested,
    SealingRequested,
    coins_and_entries,
    dies_at,
    driver_of,
    entry,
    record,
    tables,
)
from tests.store.lost_answers import answers_to_commits_lost
from tests.store.pacing import Pacer, waits_for_lock


class Closed(Contract):
    """Details of a refusal."""

    year: int


BOOKING = BookingRequested()
SEALING = SealingRequested()
FORWARD = ["after home 1", "after home 2", "inside", "after books 1", "after home 3", "after home 4", "before home 5"]
"""Where a driver of a booking stops. Its step in the books is the transactions home 2, books 1 and home 3."""
BACK = ["before home 1", "after home 1", "before books 1", "after books 1", "after home 2", "after home 3"]


def pair(home: Kind, books: Kind, *marks: pytest.MarkDecorator) -> Any:
    """A test parameter: the kinds of the home database and of the books."""
    return pytest.param((home, books), id=f"{home} home, {books} books", marks=marks)


# The mixed pairs have each kind in each role. Equal kinds are `exhaustive`, except in tests with `every_pair`.
PAIRS = [pair(home, books, *[pytest.mark.exhaustive] * (home == books)) for home, books in product(KINDS, KINDS)]
every_pair = pytest.mark.parametrize("databases", [pair(*kinds) for kinds in product(KINDS, KINDS)], indirect=True)


@pytest.fixture(params=PAIRS)
async def databases(
    request: pytest.FixtureRequest, postgres: str, sqlite_template: Path, tmp_path: Path
) -> AsyncGenerator[Databases]:
    """A home database with a thousand coins in box `a`, and empty books."""
    kinds: tuple[Kind, Kind] = request.param
    home = Database(await new_database(request, kinds[0], tmp_path), pool_size=20)
    books = Database(await new_database(request, kinds[1], tmp_path, empty=True), pool_size=20)
    async with home.transaction() as connection:
        await stock(connection, a=1_000, b=0)
    await migrate(books, name=BOOKS, application=tables)
    both = Databases(home, {BOOKS: books})
    yield both
    await both.close()


def points_inside(*pacers: Pacer) -> None:
    """Stop the first driver inside the operation `record`, its effect written and not committed."""
    waiting = [pacer for pacer in pacers if pacer.stop_at == "inside"]

    async def stop(tx: Transaction) -> None:
        if waiting:
            await waiting.pop().at("inside")

    Script.after["record"] = stop


async def until_still(databases: Databases, pacer: Pacer, driving: "asyncio.Task[Outcome]") -> None:
    """Wait until a driver has reached its point, is done, or waits for a lock."""

    async def still() -> bool:
        if pacer.reached.is_set() or driving.done():
            return True
        return any([await waits_for_lock(database) for _, database in databases])

    await eventually(still, f"the driver reaches {pacer.stop_at}; it has passed {pacer.passed}")


async def steps_in_books(databases: Databases) -> list[Any]:
    """The step rows in the books."""
    return await rows(databases.named(BOOKS), saga_step)


async def step_at_home(databases: Databases, number: int = 2) -> Any:
    """A step's row in the home database."""
    [row] = [row for row in await rows(databases.home, saga_step) if row.number == number]
    return row


def ref(event: DomainEvent, event_id: str) -> SagaRef:
    """The reference of an event's saga."""
    name = CATALOG.listeners(type(event))[0].__name__
    return SagaRef(id=saga_id(name, event_id), orchestrator=name, event_id=event_id)


async def check_booked(databases: Databases, before: Any, outcomes: list[Outcome], case: str) -> Outcome:
    """Check that every driver reports the same outcome and that both databases agree with it."""
    first = outcomes[0]
    assert all(outcome == first for outcome in outcomes), case
    boxes, texts = before
    if first.phase is Phase.COMPLETED:
        boxes = {"a": boxes["a"] - 1, "b": boxes["b"] + 1}
        texts = sorted([*texts, "a coin"])
    assert await coins_and_entries(databases) == (boxes, texts), f"{case}: {first.phase}"
    key = first.event["id"]
    assert len([row for row in await rows(databases.home, saga_outbox) if row.event_id == key]) == 1, case
    home = {(row.saga_id, row.number): row for row in await rows(databases.home, saga_step)}
    for row in await steps_in_books(databases):
        at_home = home[row.saga_id, row.number]
        assert at_home.state == row.state, case
        assert at_home.database == row.database == BOOKS, case
    assert not [row for row in home.values() if row.state == StepState.ATTEMPTING.value], case
    return first


@every_pair
async def test_an_event_added_in_another_database_is_in_its_outbox_and_names_its_cause(
    databases: Databases,
) -> None:
    async def add_event(tx: Transaction) -> None:
        await outbox.add(tx, SEALING)

    Script.after["record"] = add_event
    envelope = wrap(BOOKING, event_id="e", source="tests", because=wrap(BOOKING, event_id="first", source="tests"))
    [booking] = CATALOG.listeners(BookingRequested)

    await Driver(booking, BOOKING, envelope, StoreSteps(databases, CATALOG)).drive()

    [row] = await rows(databases.named(BOOKS), saga_outbox)
    added = read(row.envelope)
    assert (added.correlation_id, added.causation_id, added.source) == ("first", "e", "orchestrator/Booking")
    assert [row.target for row in await rows(databases.home, saga_outbox)] == [None]
    deliveries: list[str] = []

    async def deliver(listener: AnyOrchestrator, event: DomainEvent, envelope: Envelope, /) -> None:
        deliveries.append(f"{envelope.event_id} to {listener.__name__}")

    assert (await Relay(databases.named(BOOKS), databases.home, CATALOG, deliver, name=BOOKS).pass_on()).sent == 1
    assert deliveries == [f"{row.event_id} to Sealing"]


async def test_a_step_in_another_database_is_done_and_undone(databases: Databases) -> None:
    before = await coins_and_entries(databases)
    done = await driver_of(databases, BOOKING, "done").drive()
    outcome = await check_booked(databases, before, [done], "done")
    row = await step_at_home(databases)
    assert outcome.event["data"] == {"entry": row.result.strip('"')}
    assert (row.state, row.database, row.kind, row.attempts) == ("done", BOOKS, "operation", 1)

    before = await coins_and_entries(databases)
    undone = await driver_of(databases, BookingRequested(refuse=True), "undone").drive()
    assert (await check_booked(databases, before, [undone], "undone")).phase is Phase.FAILED
    data = cast(dict[str, Any], undone.event["data"])
    assert [step["operation"] for step in data["undone"]] == ["cast.put", "books.record", "cast.take"]


@pytest.mark.parametrize("event", [BOOKING, BookingRequested(refuse=True), SEALING], ids=["done", "undone", "sealed"])
async def test_a_commit_whose_answer_is_lost_is_found_in_either_database(
    databases: Databases, event: DomainEvent
) -> None:
    """Each transaction on PostgreSQL loses its answer once."""
    before = await coins_and_entries(databases)
    with ExitStack() as losing:
        lost = [
            losing.enter_context(answers_to_commits_lost(database))
            for _, database in databases
            if database.dialect == "postgresql"
        ]
        outcome = await driver_of(databases, event, "lossy").drive()

    again = await driver_of(databases, event, "lossy").drive()
    assert all(lost)
    assert sorted(set(Script.runs)) == sorted(Script.runs), "no operation ran twice"
    if event is SEALING:
        assert again == outcome
    else:
        await check_booked(databases, before, [outcome, again], "lossy")


@every_pair
@pytest.mark.parametrize("point", FORWARD)
async def test_one_driver_goes_forward_while_another_undoes(databases: Databases, point: str) -> None:
    """Two databases of the same kind are tested with every second point of the undoing driver."""
    mixed = databases.home.dialect != databases.named(BOOKS).dialect
    for back_point, forward_first in product(BACK if mixed else BACK[::2], (True, False)):
        case = f"forward {point}, back {back_point}, forward first: {forward_first}"
        before = await coins_and_entries(databases)
        event_id = f"{point}-{back_point}-{forward_first}".replace(" ", "-")
        forward_pacer, back_pacer = Pacer(point), Pacer(back_point)
        points_inside(forward_pacer)
        forward = asyncio.create_task(driver_of(databases, BOOKING, event_id, forward_pacer).drive())
        await until_still(databases, forward_pacer, forward)
        back = asyncio.create_task(
            driver_of(databases, BOOKING, event_id, back_pacer).undo(Phase.CANCELLED, "saga.cancelled", "by a test")
        )
        await until_still(databases, back_pacer, back)
        first, second = (forward_pacer, back_pacer) if forward_first else (back_pacer, forward_pacer)
        first.go_on.set()
        await until_still(databases, Pacer(), forward if forward_first else back)
        second.go_on.set()
        async with asyncio.timeout(20):
            await check_booked(databases, before, list(await asyncio.gather(forward, back)), case)


async def test_two_drivers_going_forward_complete_a_booking_once(databases: Databases) -> None:
    for point in FORWARD:
        before = await coins_and_entries(databases)
        pacer = Pacer(point)
        points_inside(pacer)
        event_id = point.replace(" ", "-")
        first = asyncio.create_task(driver_of(databases, BOOKING, event_id, pacer).drive())
        await until_still(databases, pacer, first)
        second = asyncio.create_task(driver_of(databases, BOOKING, event_id).drive())
        await until_still(databases, Pacer(), second)
        pacer.go_on.set()
        async with asyncio.timeout(20):
            outcomes = list(await asyncio.gather(first, second))
        assert (await check_booked(databases, before, outcomes, point)).phase is Phase.COMPLETED


async def test_two_undoing_drivers_undo_a_booking_once(databases: Databases) -> None:
    for point in BACK:
        before = await coins_and_entries(databases)
        event_id = point.replace(" ", "-")
        await dies_at(databases, BOOKING, event_id, "before home 5")
        pacer = Pacer(point.replace("before books", "after home") if point == "before books 1" else point)
        first = asyncio.create_task(
            driver_of(databases, BOOKING, event_id, pacer).undo(Phase.CANCELLED, "saga.cancelled", "by a test")
        )
        await until_still(databases, pacer, first)
        second = asyncio.create_task(
            driver_of(databases, BOOKING, event_id).undo(Phase.CANCELLED, "saga.cancelled", "by a test")
        )
        await until_still(databases, Pacer(), second)
        pacer.go_on.set()
        async with asyncio.timeout(20):
            outcomes = list(await asyncio.gather(first, second))
        await check_booked(databases, before, outcomes, point)
    assert Script.runs.count("strike") == len(BACK)


async def test_wherever_a_driver_dies_the_next_one_ends_the_saga(databases: Databases) -> None:
    for point, goes_back in product(FORWARD, (False, True)):
        if point == "inside":
            continue  # a worker that dies there rolls back, so this equals "after home 2"
        before = await coins_and_entries(databases)
        event_id = f"{point}-{goes_back}".replace(" ", "-")
        await dies_at(databases, BOOKING, event_id, point)
        next_driver = driver_of(databases, BOOKING, event_id)
        outcome = await (
            next_driver.undo(Phase.CANCELLED, "saga.cancelled", "by a test") if goes_back else next_driver.drive()
        )
        await check_booked(databases, before, [outcome], point)
        assert outcome.phase is (Phase.CANCELLED if goes_back else Phase.COMPLETED)


async def test_an_attempt_after_the_undo_changes_nothing_in_another_database(databases: Databases) -> None:
    before = await coins_and_entries(databases)
    late = Pacer("before books 1")
    forward = asyncio.create_task(driver_of(databases, BOOKING, "late", late).drive())
    await until_still(databases, late, forward)
    assert (await step_at_home(databases)).state == "attempting"
    undone = await driver_of(databases, BOOKING, "late").undo(Phase.CANCELLED, "saga.cancelled", "by a test")
    assert (await step_at_home(databases)).state == "barred"

    late.go_on.set()
    outcome = await forward

    await check_booked(databases, before, [undone, outcome], "late")
    assert "record" not in Script.runs


async def test_a_refusal_in_another_database_undoes_the_steps_at_home(databases: Databases) -> None:
    before = await coins_and_entries(databases)
    Script.after["record"] = refuses("books.closed")
    outcome = await driver_of(databases, BOOKING, "refused").drive()
    await check_booked(databases, before, [outcome], "refused")
    assert outcome.error_code == "books.closed"
    assert [row.state for row in await steps_in_books(databases)] == ["refused"]


async def test_a_refusal_not_yet_copied_home_is_still_final(databases: Databases) -> None:
    before = await coins_and_entries(databases)
    Script.after["record"] = refuses("books.closed", Closed(year=2025))
    await dies_at(databases, BOOKING, "refused", "after books 2")
    assert (await step_at_home(databases)).state == "attempting"
    Script.after.clear()
    outcome = await driver_of(databases, BOOKING, "refused").drive()
    await check_booked(databases, before, [outcome], "refused")
    assert outcome.error_code == "books.closed"
    assert cast(Any, outcome.event)["data"]["details"] == {"year": 2025}


async def test_a_step_that_fails_in_another_database_is_barred_there(databases: Databases) -> None:
    before = await coins_and_entries(databases)
    Script.after["record"] = fails()
    outcome = await driver_of(databases, BOOKING, "failing").drive()
    await check_booked(databases, before, [outcome], "failing")
    assert outcome.error_code == "operation.failed"
    assert [row.state for row in await steps_in_books(databases)] == ["barred"]


async def test_a_compensation_that_fails_in_another_database_is_counted_at_home_and_retried(
    databases: Databases,
) -> None:
    before = await coins_and_entries(databases)
    Script.after["strike"] = fails(1)
    refused = BookingRequested(refuse=True)
    with pytest.raises(RuntimeError):
        await driver_of(databases, refused, "twice").drive()
    row = await step_at_home(databases)
    assert (row.state, row.undo_attempts) == ("done", 1)
    assert "fails for now" in row.undo_error
    outcome = await driver_of(databases, refused, "twice").drive()
    await check_booked(databases, before, [outcome], "twice")


PIVOT_POINTS = ["after home 1", "after home 2", "before books 1", "after books 1", "after home 3", "before home 5"]


@pytest.mark.parametrize("point", PIVOT_POINTS)
@pytest.mark.parametrize("who", ["driver", "command", "recovery"])
async def test_an_undo_first_checks_whether_a_pivot_in_another_database_is_done(
    databases: Databases, point: str, who: str
) -> None:
    before = await coins_and_entries(databases)
    late = Pacer(point)
    forward = asyncio.create_task(driver_of(databases, SEALING, "sealing", late).drive())
    await until_still(databases, late, forward)
    is_past = point not in ("after home 1", "after home 2", "before books 1")
    saga = ref(SEALING, "sealing")
    match who:
        case "command":
            answer = await cancel_saga(databases, saga.id, by="a test")
            assert answer is (Phase.FORWARD if is_past else Phase.UNDOING)
        case "recovery":
            recorded = (await recorded_sagas(databases.home, [saga.id]))[saga.id]
            expected = UndoAnswer.PAST_PIVOT if is_past else UndoAnswer.UNDOING
            assert await would_undo(databases, recorded) is expected
            assert await undo_if_still_owned(databases, recorded, "by a test") is expected
        case _:
            pass
    undone = await driver_of(databases, SEALING, "sealing").undo(Phase.CANCELLED, "saga.cancelled", "by a test")
    late.go_on.set()
    assert await forward == undone

    boxes, texts = before
    if is_past:
        assert undone.phase is Phase.COMPLETED
        assert await coins_and_entries(databases) == ({**boxes, "a": boxes["a"] - 1}, ["filed", "sealed"])
    else:
        assert undone.phase is Phase.CANCELLED
        assert await coins_and_entries(databases) == before
    assert texts == []


async def test_a_skipped_step_past_the_pivot_is_not_done_by_a_late_driver(databases: Databases) -> None:
    late = Pacer("before books 2")
    forward = asyncio.create_task(driver_of(databases, SEALING, "skipped", late).drive())
    await until_still(databases, late, forward)
    skip = Skip(saga_id=ref(SEALING, "skipped").id, number=3, by="a test", reason="never mind")
    assert not (await skip_step(databases, CATALOG, skip)).before
    assert (await skip_step(databases, CATALOG, skip)).before
    late.go_on.set()
    assert (await forward).phase is Phase.COMPLETED
    assert (await coins_and_entries(databases))[1] == ["sealed"]
    assert "file" not in Script.runs


async def test_a_step_already_done_in_another_database_is_not_skipped(databases: Databases) -> None:
    await dies_at(databases, SEALING, "done", "after books 2")
    skip = Skip(saga_id=ref(SEALING, "done").id, number=3, by="a test", reason="never mind")
    with pytest.raises(SkipRefused, match="is done"):
        await skip_step(databases, CATALOG, skip)
    assert (await driver_of(databases, SEALING, "done").drive()).phase is Phase.COMPLETED
    assert (await coins_and_entries(databases))[1] == ["filed", "sealed"]


async def test_a_skip_prevents_a_compensation_in_another_database(databases: Databases) -> None:
    """A person skips the step after the driver has read at home that it must be undone."""
    await dies_at(databases, BOOKING, "skip", "before home 5")
    back = Pacer("before books 1")
    undoing = asyncio.create_task(
        driver_of(databases, BOOKING, "skip", back).undo(Phase.CANCELLED, "saga.cancelled", "by a test")
    )
    await until_still(databases, back, undoing)
    skip = Skip(saga_id=ref(BOOKING, "skip").id, number=2, by="a test", reason="keep the entry")
    await skip_step(databases, CATALOG, skip)
    back.go_on.set()
    outcome = await undoing
    assert "strike" not in Script.runs
    assert await coins_and_entries(databases) == ({"a": 1_000, "b": 0}, ["a coin"])
    data = cast(dict[str, Any], outcome.event["data"])
    assert [(step["operation"], step["skipped"]) for step in data["undone"]][1] == ("books.record", True)


async def test_a_query_in_another_database_has_one_result_for_all_drivers(databases: Databases) -> None:
    slow = Pacer("after books 1")
    first = asyncio.create_task(driver_of(databases, CountingRequested(), "count", slow).drive())
    await until_still(databases, slow, first)  # it has counted 0 entries, and this is not recorded yet
    async with databases.named(BOOKS).transaction() as connection:
        await connection.execute(entry.insert().values(id="one", text="another entry"))
    stopped = Pacer("after home 2")
    second = asyncio.create_task(driver_of(databases, CountingRequested(), "count", stopped).drive())
    await until_still(databases, stopped, second)
    slow.go_on.set()
    stopped.go_on.set()
    first_outcome, second_outcome = await first, await second
    assert first_outcome == second_outcome
    assert first_outcome.event["data"] == {"counted": 1}
    assert (await coins_and_entries(databases))[0]["b"] == 1
    assert await steps_in_books(databases) == []


async def test_an_atomic_step_in_another_database_is_done_and_undone_as_one(databases: Databases) -> None:
    event = PairRequested()
    assert (await driver_of(databases, event, "done").drive()).phase is Phase.COMPLETED
    boxes, texts = await coins_and_entries(databases)
    assert (boxes["a"], texts) == (999, ["first", "second"])
    assert [(row.kind, row.state) for row in await steps_in_books(databases)] == [("atomic", "done")]

    for point in ("before books 1", "after books 1"):
        late = Pacer(point)
        forward = asyncio.create_task(driver_of(databases, event, point.replace(" ", "-"), late).drive())
        await until_still(databases, late, forward)
        undone = await driver_of(databases, event, point.replace(" ", "-")).undo(Phase.CANCELLED, "saga.cancelled", "x")
        late.go_on.set()
        assert await forward == undone
        assert await coins_and_entries(databases) == (boxes, texts)


async def test_no_atomic_step_spans_two_databases() -> None:
    with pytest.raises(UsageError, match="a transaction has only one database"):
        Atomically(take("a", 1), record("a coin"))


async def test_an_unknown_database_fails_the_step_and_changes_nothing(databases: Databases) -> None:
    driver = driver_of(databases, BOOKING, "unknown")
    driver._steps = StoreSteps(databases.home, CATALOG)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(DatabaseMissing, match="ORCHESTRATOR_DATABASES"):
        await driver.drive()
    assert [row.number for row in await rows(databases.home, saga_step)] == [1]
    assert (await driver_of(databases, BOOKING, "unknown").drive()).phase is Phase.COMPLETED


async def test_each_database_has_its_own_tables_and_its_own_role(databases: Databases) -> None:
    async with databases.named(BOOKS).reading() as connection:
        names = set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))
    assert names == {"saga_alembic_version", "saga_meta", "saga_outbox", "saga_step", "entry"}
    async with databases.home.reading() as connection:
        assert not await connection.run_sync(lambda sync: inspect(sync).has_table("entry"))
    with pytest.raises(Unreachable, match="is a home database"):
        await migrate(databases.home, name=BOOKS)
    with pytest.raises(Unreachable, match="holds no sagas"):
        await migrate(databases.named(BOOKS))


@pytest.mark.parametrize("name", ["namespace", "cluster"])
async def test_a_database_with_steps_of_another_home_is_refused_until_it_is_adopted(
    databases: Databases, name: str
) -> None:
    await check_shared(databases)  # no owner is recorded yet
    await adopt(databases.home, "here", "c-1")
    await check_shared(databases)
    await adopt(
        databases.named(BOOKS), "there" if name == "namespace" else "here", "c-1" if name == "namespace" else "c-2"
    )

    with pytest.raises(Unreachable, match=r"Another home has its steps there.*orchestrator recover --adopt"):
        await check_shared(databases)

    await adopt(databases.named(BOOKS), "here", "c-1")
    await check_shared(databases)
