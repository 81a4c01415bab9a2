"""Lock keys are held in order of arrival, without deadlocks, and no ticket outlives its saga."""

import asyncio
import random
from collections.abc import Sequence
from itertools import combinations, pairwise

import pytest
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator import Refused, Transaction
from orchestrator.drive.driver import Driver
from orchestrator.errors import UsageError
from orchestrator.protocol.commands import (
    Blocked,
    FinishCommand,
    Opening,
    Outcome,
    Phase,
    StepCommand,
    StepDone,
    StepRefused,
    WaitBegun,
    WaitCommand,
)
from orchestrator.protocol.lock_keys import lock_keys_of
from orchestrator.protocol.messages.envelope import read, saga_id
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_lock, saga_step
from orchestrator.store.locks import Woken
from orchestrator.store.saga.fence import run_step
from orchestrator.store.saga.finish import finish_saga
from orchestrator.store.saga.intervention import cancel_saga
from orchestrator.store.saga.opening import OpenSaga, open_sagas
from orchestrator.store.saga.waits import begin_wait
from orchestrator.store.unused_lock_keys import remove_unused_heads
from tests.cast import Script
from tests.cast_events import TurnTakingRequested
from tests.house import CATALOG, Holdings, eventually, opening_of, rows
from tests.orchestrators import TurnTaking
from tests.store.lost_answers import answers_to_commits_lost
from tests.store.pacing import Pacer, driver_of, until_stopped, waits_for_lock

NAME = TurnTaking.__name__


def opening(event_id: str, *keys: str, coins: int = 1, owner: str = "") -> Opening:
    """The opening of a saga that locks these keys."""
    return opening_of(TurnTaking, TurnTakingRequested(keys=keys, coins=coins), event_id, owner=owner)


def first_step(opening: Opening, coins: int = 1) -> StepCommand:
    """The command of the first step, which opens the saga."""
    return StepCommand(
        saga=opening.saga,
        number=1,
        operation="cast.take",
        arguments={"name": "a", "coins": coins},
        event_time=read(opening.envelope).time.isoformat(),
        opening=opening,
    )


async def opened(database: Database, *openings: Opening) -> Sequence[OpenSaga]:
    """Open sagas as a driver does; returns them in the order of the openings."""

    async def work(connection: AsyncConnection) -> Sequence[OpenSaga]:
        open_by_id = await open_sagas(connection, openings, CATALOG, begins=True)
        return [open_by_id[opening.saga.id] for opening in openings]

    return await database.in_transaction(work)


async def tickets(database: Database) -> dict[str, list[str]]:
    """The event ids of the sagas that queue for each key, in order."""
    drawn = sorted(await rows(database, saga_lock), key=lambda row: (row.key, row.ticket))
    names = {row.id: row.event_id for row in await rows(database, saga)}
    queues: dict[str, list[str]] = {}
    for row in drawn:
        if row.ticket > 0:
            queues.setdefault(row.key, []).append(names[row.saga_id])
    return queues


async def test_the_first_saga_holds_a_key_and_the_others_learn_who_blocks_them(stocked: Database) -> None:
    [first] = await opened(stocked, opening("one", "k", "l"))
    second, third = await opened(stocked, opening("two", "l", "m", owner="w2"), opening("three", "m", "l", owner="w3"))
    [again] = await opened(stocked, opening("three", "m", "l", owner="another"))

    assert first.blocked_by == ()
    assert [(by.key, by.holder.event_id, by.before) for by in second.blocked_by] == [("l", "one", 1)]
    assert [(by.key, by.holder.event_id, by.before) for by in third.blocked_by] == [("l", "one", 2), ("m", "two", 1)]
    assert again == third  # opening it again only reads
    assert await tickets(stocked) == {"k": ["one"], "l": ["one", "two", "three"], "m": ["two", "three"]}
    drives = {row.event_id: (row.drives, row.owner_workflow_id) for row in await rows(stocked, saga)}
    assert drives == {"one": (1, ""), "two": (0, "w2"), "three": (0, "w3")}


async def test_a_waiting_saga_stays_with_its_owner_or_the_owners_next_execution(
    stocked: Database,
) -> None:
    waits = opening("waits", "k", owner="w1")
    await opened(stocked, opening("holds", "k"), waits.model_copy(update={"owner_first_run_id": "first"}))
    owners: list[tuple[str, str]] = []
    for owner, run in (("w2", "other"), ("w1", "next")):
        await opened(stocked, waits.model_copy(update={"owner_workflow_id": owner, "owner_first_run_id": run}))
        [row] = [row for row in await rows(stocked, saga) if row.event_id == "waits"]
        owners.append((row.owner_workflow_id, row.owner_first_run_id))
    assert owners == [("w1", "first"), ("w1", "next")]


async def test_a_blocked_step_does_not_run_until_its_saga_holds_the_key(stocked: Database) -> None:
    woken: list[Woken] = []

    async def waker(sagas: Sequence[Woken]) -> None:
        woken.extend(sagas)

    first, second = opening("first", "k"), opening("second", "k", owner="its-workflow")
    await run_step(stocked, CATALOG, first_step(first))
    blocked = await run_step(stocked, CATALOG, first_step(second))
    assert isinstance(blocked, Blocked)
    assert [step.saga_id for step in await rows(stocked, saga_step)] == [first.saga.id]

    await finish_saga(stocked, CATALOG, FinishCommand(opening=first, completed={}, steps=1), waker)
    assert [(wake.saga, wake.owner_workflow_id) for wake in woken] == [(second.saga, "its-workflow")]
    assert isinstance(await run_step(stocked, CATALOG, first_step(second)), StepDone)
    await finish_saga(stocked, CATALOG, FinishCommand(opening=second, completed={}, steps=1), waker)
    assert len(woken) == 1
    assert await tickets(stocked) == {}


async def test_the_next_saga_is_woken_even_if_the_answer_to_the_finish_is_lost(stocked: Database, kind: str) -> None:
    if kind == "sqlite":
        pytest.skip("SQLite has no connection that another process can end")
    woken: list[Woken] = []

    async def waker(sagas: Sequence[Woken]) -> None:
        woken.extend(sagas)

    first, second = opening("first", "k"), opening("second", "k", owner="its-workflow")
    with answers_to_commits_lost(stocked) as lost:
        await run_step(stocked, CATALOG, first_step(first))
        await run_step(stocked, CATALOG, first_step(second))
        await finish_saga(stocked, CATALOG, FinishCommand(opening=first, completed={}, steps=1), waker)

    assert (len(lost), [wake.saga for wake in woken]) == (3, [second.saga])
    assert await tickets(stocked) == {"k": ["second"]}


async def test_a_refusal_counts_only_if_its_saga_holds_the_locks(stocked: Database) -> None:
    """The refused transaction rolls its ticket back, and another saga gets one before the refusal is recorded."""
    refused, other = opening("refused", "k"), opening("other", "k")
    drawing: list[asyncio.Task[Sequence[OpenSaga]]] = []

    async def refuse(tx: Transaction) -> None:
        if not drawing:
            drawing.append(asyncio.create_task(opened(stocked, other)))
            await eventually(lambda: waits_for_lock(stocked), "the other saga waits for its ticket")
        raise Refused("box.refused", "no")

    Script.before["take"] = refuse
    assert isinstance(await run_step(stocked, CATALOG, first_step(refused)), Blocked)
    await drawing[0]
    assert await tickets(stocked) == {"k": ["other", "refused"]}
    assert await rows(stocked, saga_step) == []

    await finish_saga(stocked, CATALOG, FinishCommand(opening=other, completed={}))
    assert isinstance(await run_step(stocked, CATALOG, first_step(refused)), StepRefused)
    assert await tickets(stocked) == {"k": ["refused"]}


async def test_a_wait_that_opens_a_saga_waits_for_its_locks_first(stocked: Database) -> None:
    await opened(stocked, opening("first", "k"))
    second = opening("second", "k")
    command = WaitCommand(
        saga=second.saga, number=1, operation="saga.sleep", arguments={"seconds": 1.0}, seconds=1.0, opening=second
    )
    assert isinstance(await begin_wait(stocked, CATALOG, command), Blocked)
    assert await rows(stocked, saga_step) == []
    other = command.model_copy(update={"opening": second.model_copy(update={"lock_keys": ()})})
    assert isinstance(await begin_wait(stocked, CATALOG, other), Blocked)  # the row decides
    third = opening("third")
    free = command.model_copy(update={"opening": third, "saga": third.saga})
    assert isinstance(await begin_wait(stocked, CATALOG, free), WaitBegun)


async def test_twenty_concurrent_sagas_hold_each_key_one_at_a_time(stocked: Database) -> None:
    chance = random.Random(1)
    holding: set[str] = set()
    clashes: list[str] = []
    sagas = {f"saga-{number}": chance.sample("klmn", chance.randint(1, 3)) for number in range(20)}

    async def drive(event_id: str, keys: list[str]) -> Outcome:
        event = TurnTakingRequested(keys=tuple(keys))
        return await driver_of(stocked, TurnTaking, event, event_id, Watch(event_id, keys)).drive()

    class Watch(Pacer):
        """Records the keys of sagas that have done a step and have not finished."""

        def __init__(self, event_id: str, keys: list[str]) -> None:
            super().__init__()
            self.keys = keys
            self.event_id = event_id

        async def at(self, point: str) -> None:
            """Record each key that two sagas hold at once: a saga holds its keys from its first step to its finish."""
            if point == "before step 2":
                clashes.extend(key for key in self.keys if key in holding)
                holding.update(self.keys)
            elif point == "before finish":
                holding.difference_update(self.keys)

    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(*(drive(event_id, keys) for event_id, keys in sagas.items()))

    assert clashes == []
    assert {outcome.phase for outcome in outcomes} == {Phase.COMPLETED}
    assert (await Holdings.of(stocked)).boxes == {"a": 980, "b": 20}
    assert await tickets(stocked) == {}


async def test_two_concurrent_openings_queue_in_the_same_order_for_every_key(stocked: Database) -> None:
    for number in range(8):
        keys = [f"{key}-{number}" for key in ("k", "l", "m")]
        await asyncio.gather(*(opened(stocked, opening(f"{name}-{number}", *keys)) for name in ("one", "two")))

        queues = await tickets(stocked)
        assert queues[keys[0]] == queues[keys[1]] == queues[keys[2]]


async def test_bulk_and_single_openings_queue_in_one_order_for_all_keys(stocked: Database) -> None:
    chance = random.Random(2)
    keys = [f"key-{number}" for number in range(6)]
    openings = [opening(f"saga-{number}", *chance.sample(keys, chance.randint(1, 4))) for number in range(120)]
    bulks = [openings[:50], openings[50:90]]
    for bulk in bulks:
        chance.shuffle(bulk)
    async with asyncio.timeout(60):
        await asyncio.gather(*(opened(stocked, *bulk) for bulk in (*bulks, *([opening] for opening in openings))))

    queues = await tickets(stocked)
    assert {key: len(set(waiting)) for key, waiting in queues.items()} == {
        key: sum(key in opening.lock_keys for opening in openings) for key in keys
    }
    for key, other in combinations(keys, 2):
        both = set(queues[key]) & set(queues[other])
        assert [name for name in queues[key] if name in both] == [name for name in queues[other] if name in both]
    after: dict[str, set[str]] = {}
    for waiting in queues.values():
        for ahead, behind in pairwise(waiting):
            after.setdefault(ahead, set()).add(behind)
    while after:  # remove the sagas with none ahead of them; a circle would leave none to remove
        free = set(after) - {behind for behinds in after.values() for behind in behinds}
        assert free, "sagas wait in a circle"
        for name in free:
            del after[name]


@pytest.mark.parametrize("how", ["cancel", "deadline", "row"])
async def test_a_saga_cancelled_while_it_waits_leaves_no_ticket(stocked: Database, how: str) -> None:
    await opened(stocked, opening("holder", "k"))
    pacer = Pacer()
    driver = driver_of(stocked, TurnTaking, TurnTakingRequested(keys=("k",)), "waits", pacer)
    driving = asyncio.create_task(driver.drive())

    async def waits() -> bool:
        return await tickets(stocked) == {"k": ["holder", "waits"]}

    await eventually(waits, "the saga waits for the key")
    if how == "row":
        await cancel_saga(stocked, saga_id(NAME, "waits"), by="a test")
    elif how == "cancel":
        driving.cancel()
    else:
        expire(driver, driving)
    async with asyncio.timeout(10):
        outcome = await driving

    assert outcome.phase is (Phase.FAILED if how == "deadline" else Phase.CANCELLED)
    assert await tickets(stocked) == {"k": ["holder"]}
    assert (await Holdings.of(stocked)).boxes == {"a": 1_000, "b": 0}


def expire(driver: Driver, driving: "asyncio.Task[Outcome]") -> None:
    """Let the saga's deadline expire, as the driver's timer does."""
    driver._is_expired = True  # pyright: ignore[reportPrivateUsage]
    driving.cancel()


@pytest.mark.parametrize("point", ["before step 1", "after step 1", "before finish", "after finish"])
async def test_two_drivers_of_a_waiting_saga_complete_it_once(stocked: Database, point: str) -> None:
    """One driver is stopped while the other completes the saga; the holder of the key finishes in the meantime."""
    holder = opening("holder", "k")
    await opened(stocked, holder)
    event = TurnTakingRequested(keys=("k",))
    pacer = Pacer(point)
    first = asyncio.create_task(driver_of(stocked, TurnTaking, event, "waits", pacer).drive())
    if point.endswith("step 1"):
        await until_stopped(stocked, pacer, first)
    second = asyncio.create_task(driver_of(stocked, TurnTaking, event, "waits").drive())

    async def waits() -> bool:
        return await tickets(stocked) == {"k": ["holder", "waits"]}

    await eventually(waits, "both drivers together have one ticket")
    await finish_saga(stocked, CATALOG, FinishCommand(opening=holder, completed={}))
    if not point.endswith("step 1"):
        await until_stopped(stocked, pacer, first)
    async with asyncio.timeout(20):
        outcome = await second
        pacer.go_on.set()
        assert await first == outcome

    assert outcome.phase is Phase.COMPLETED
    assert (await Holdings.of(stocked)).boxes == {"a": 999, "b": 1}
    assert await tickets(stocked) == {}


async def test_invalid_lock_keys_and_ordering_keys_are_refused() -> None:
    right = TurnTakingRequested(keys=("b", "a", "b"), ordering_key="a")
    both = lock_keys_of(TurnTaking, right)
    assert both.keys == ("a", "b")
    assert both.ordering_key == "a"
    wrong = [("",), ("k" * 513,), tuple(str(number) for number in range(101)), ("\x00",)]
    for keys in wrong:
        with pytest.raises(UsageError, match=r"TurnTaking"):
            lock_keys_of(TurnTaking, TurnTakingRequested.model_construct(keys=keys, ordering_key=None))
    with pytest.raises(UsageError, match="must return a list"):
        lock_keys_of(TurnTaking, right.model_copy(update={"keys": "user/1"}))
    with pytest.raises(UsageError, match="a key must be a string"):
        lock_keys_of(TurnTaking, right.model_copy(update={"ordering_key": 7}))


async def heads(database: Database) -> set[str]:
    """The keys that have a head row."""
    return {row.key for row in await rows(database, saga_lock) if row.ticket == 0}


async def test_heads_of_unlocked_keys_are_removed_and_created_again(stocked: Database) -> None:
    done, held = opening("done", "k", "l"), opening("held", "m")
    await opened(stocked, done, held)
    await finish_saga(stocked, CATALOG, FinishCommand(opening=done, completed={}))

    assert await remove_unused_heads(stocked, limit=1) == 1
    assert await remove_unused_heads(stocked) == 1
    assert await remove_unused_heads(stocked) == 0

    assert await heads(stocked) == {"m"}
    await opened(stocked, opening("next", "k", "m"), opening("after", "k"))
    assert await tickets(stocked) == {"k": ["next", "after"], "m": ["held", "next"]}


async def test_an_opening_creates_a_head_again_that_is_removed_while_it_waits(stocked: Database) -> None:
    done = opening("done", "k")
    await opened(stocked, done)
    await finish_saga(stocked, CATALOG, FinishCommand(opening=done, completed={}))
    async with stocked.transaction() as connection:
        await connection.execute(delete(saga_lock).where(saga_lock.c.key == "k"))
        drawing = asyncio.create_task(opened(stocked, opening("one", "k"), opening("two", "k")))
        await eventually(lambda: waits_for_lock(stocked), "the opening waits for the head")
    async with asyncio.timeout(10):
        await drawing

    assert await tickets(stocked) == {"k": ["one", "two"]}
    assert await heads(stocked) == {"k"}


async def test_a_head_that_an_opening_has_locked_is_not_removed(stocked: Database) -> None:
    """The opening's tickets are not visible yet, so the removal must neither wait nor trust what it has read before."""
    done = opening("done", "k")
    await opened(stocked, done)
    await finish_saga(stocked, CATALOG, FinishCommand(opening=done, completed={}))
    async with stocked.transaction() as connection:
        await open_sagas(connection, [opening("drawing", "k")], CATALOG, begins=True)
        removing = asyncio.create_task(remove_unused_heads(stocked))
        if (
            stocked.dialect == "postgresql"
        ):  # on SQLite the removal waits for the open transaction and then sees the ticket
            async with asyncio.timeout(10):
                assert await removing == 0
        else:
            await eventually(lambda: waits_for_lock(stocked), "the removal waits for the open transaction")
    assert await removing == 0

    await opened(stocked, opening("next", "k"))
    assert await tickets(stocked) == {"k": ["drawing", "next"]}
