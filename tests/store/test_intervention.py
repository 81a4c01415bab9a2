"""A person's decision races with a compensation or with another person's decision: exactly one of them wins."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.event import DomainEvent
from orchestrator.protocol.commands import Outcome, Phase, SagaRef, UndoCommand, Undone
from orchestrator.protocol.messages.envelope import saga_id
from orchestrator.store.core.database import TRIES, Database
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.saga.intervention import Skip, Skipped, SkipRefused, cancel_saga, skip_step
from orchestrator.store.saga.undo import undo_step
from tests.cast import Script
from tests.cast_events import CoinsMoveRequested, LetterRequested
from tests.house import CATALOG, Holdings, new_id, rows
from tests.orchestrators import CoinsMove, Letter
from tests.store.pacing import Pacer, driver_of, stop_inside_operations, until_stopped

EVENT = CoinsMoveRequested(source="a", target="b", coins=10)


R = TypeVar("R")


class HeldDatabase(Database):
    """A database whose transactions stop before they commit, until the test releases them."""

    def __init__(self, other: Database) -> None:
        super().__init__(other.url.render_as_string(hide_password=False))
        self.pacer = Pacer("before the commit")

    async def in_transaction(self, work: Callable[[AsyncConnection], Awaitable[R]], *, tries: int = TRIES) -> R:
        """Run a transaction as usual, with a point before its commit."""

        async def held(connection: AsyncConnection) -> R:
            answer = await work(connection)
            await self.pacer.at("before the commit")
            return answer

        return await super().in_transaction(held, tries=tries)


class Undoing:
    """A saga of three steps that is being undone, its driver stopped at a point."""

    def __init__(self, database: Database, event_id: str, point: str) -> None:
        self.database = database
        self.ref = SagaRef(id=saga_id("CoinsMove", event_id), orchestrator="CoinsMove", event_id=event_id)
        self.pacer = Pacer(point)
        self.driving = asyncio.create_task(self._drive())

    async def _drive(self) -> Outcome:
        forward = driver_of(self.database, CoinsMove, EVENT, self.ref.event_id, stop := Pacer("before finish"))
        ahead = asyncio.create_task(forward.drive())
        await stop.reached.wait()
        back = driver_of(self.database, CoinsMove, EVENT, self.ref.event_id, self.pacer)
        try:
            return await back.undo(Phase.CANCELLED, "saga.cancelled", "by a test")
        finally:
            stop.go_on.set()
            await ahead

    def skip(self, number: int, *, by: str = "olena", reason: str = "it was paid by hand") -> Skip:
        """A person's request to skip a step of this saga."""
        return Skip(saga_id=self.ref.id, number=number, by=by, reason=reason)

    async def undo(self, number: int) -> object:
        """Make one more attempt of a compensation, as another driver would."""
        command = UndoCommand(
            saga=self.ref, number=number, operation="cast.put", event_time=datetime.now(UTC).isoformat()
        )
        return await undo_step(self.database, CATALOG, command)

    async def end(self) -> Outcome:
        """Let the driver continue to the outcome."""
        self.pacer.go_on.set()
        async with asyncio.timeout(20):
            return await self.driving

    async def states(self) -> Mapping[int, str]:
        """The state of each of its steps."""
        return {row.number: row.state for row in await rows(self.database, saga_step)}


@asynccontextmanager
async def undoing(database: Database, point: str) -> AsyncGenerator[Undoing]:
    """A saga whose undo has stopped at a point."""
    stop_inside_operations()
    saga_in_undo = Undoing(database, new_id(), point)
    await until_stopped(database, saga_in_undo.pacer, saga_in_undo.driving)
    try:
        yield saga_in_undo
    finally:
        saga_in_undo.pacer.go_on.set()
        await asyncio.gather(saga_in_undo.driving, return_exceptions=True)


def skipped_of(outcome: Outcome) -> list[tuple[int, bool]]:
    """Number of each step that the failed event lists, and whether it was skipped."""
    data: Any = outcome.event["data"]
    return [(step["number"], step["skipped"]) for step in data["undone"]]


async def test_a_skipped_step_keeps_its_effect_and_the_others_are_undone(stocked: Database) -> None:
    async with undoing(stocked, "before undo 2") as saga_in_undo:
        skipped = await skip_step(stocked, CATALOG, saga_in_undo.skip(2))

        outcome = await saga_in_undo.end()

    assert skipped == Skipped(by="olena", reason="it was paid by hand", before=False)
    assert await saga_in_undo.states() == {1: "undone", 2: "skipped", 3: "undone"}
    assert (await Holdings.of(stocked)).boxes == {"a": 1_000, "b": 10}
    assert skipped_of(outcome) == [(3, False), (2, True), (1, False)]
    [row] = [row for row in await rows(stocked, saga_step) if row.number == 2]
    assert (row.skipped_by, row.skip_reason) == ("olena", "it was paid by hand")


async def test_a_late_attempt_of_a_skipped_compensation_changes_nothing(stocked: Database) -> None:
    async with undoing(stocked, "before undo 2") as saga_in_undo:
        await skip_step(stocked, CATALOG, saga_in_undo.skip(2))
        Script.runs.clear()

        while_undoing = await saga_in_undo.undo(2)
        await saga_in_undo.end()
        after_the_end = await saga_in_undo.undo(2)

    assert while_undoing == Undone(number=2)
    assert after_the_end != Undone(number=2)
    assert "take_out" not in Script.runs
    assert (await Holdings.of(stocked)).boxes == {"a": 1_000, "b": 10}


async def test_a_skip_waits_for_an_open_compensation_and_is_then_refused(stocked: Database) -> None:
    async with undoing(stocked, "inside undo 2") as saga_in_undo:
        skipping = asyncio.create_task(skip_step(stocked, CATALOG, saga_in_undo.skip(2)))
        await until_stopped(stocked, Pacer(), skipping)
        assert not skipping.done()

        outcome = await saga_in_undo.end()
        with pytest.raises(SkipRefused, match=r"step 2, cast\.put, is already undone|has ended as cancelled"):
            await skipping

    assert await saga_in_undo.states() == {1: "undone", 2: "undone", 3: "undone"}
    assert (await Holdings.of(stocked)).boxes == {"a": 1_000, "b": 0}
    assert skipped_of(outcome) == [(3, False), (2, False), (1, False)]


async def test_a_compensation_waits_for_an_open_skip_and_then_changes_nothing(stocked: Database) -> None:
    held = HeldDatabase(stocked)
    async with undoing(stocked, "before undo 2") as saga_in_undo:
        skipping = asyncio.create_task(skip_step(held, CATALOG, saga_in_undo.skip(2)))
        await held.pacer.reached.wait()
        Script.runs.clear()
        late = asyncio.create_task(saga_in_undo.undo(2))
        await until_stopped(stocked, Pacer(), late)
        assert not late.done()

        held.pacer.go_on.set()

        assert (await skipping).before is False
        assert await late == Undone(number=2)
        await saga_in_undo.end()
    await held.close()

    assert "take_out" not in Script.runs
    assert await saga_in_undo.states() == {1: "undone", 2: "skipped", 3: "undone"}
    assert (await Holdings.of(stocked)).boxes == {"a": 1_000, "b": 10}


async def test_of_two_concurrent_skips_the_first_wins_and_the_second_reports_it(stocked: Database) -> None:
    held = HeldDatabase(stocked)
    async with undoing(stocked, "before undo 2") as saga_in_undo:
        first = asyncio.create_task(skip_step(held, CATALOG, saga_in_undo.skip(2, by="olena", reason="first")))
        await held.pacer.reached.wait()
        second = asyncio.create_task(skip_step(stocked, CATALOG, saga_in_undo.skip(2, by="taras", reason="second")))
        await until_stopped(stocked, Pacer(), second)
        assert not second.done()

        held.pacer.go_on.set()

        assert await first == Skipped(by="olena", reason="first", before=False)
        assert await second == Skipped(by="olena", reason="first", before=True)
    await held.close()


async def test_a_skip_clears_the_stuck_mark_of_its_own_step_only(stocked: Database) -> None:
    async with undoing(stocked, "before undo 2") as saga_in_undo:
        for skipped, stuck_then in ((1, 2), (2, None)):
            async with stocked.transaction() as connection:
                await connection.execute(
                    update(saga).values(stuck_step=2, stuck_error="gone", stuck_since=datetime.now(UTC))
                )
            await skip_step(stocked, CATALOG, saga_in_undo.skip(skipped))
            [row] = await rows(stocked, saga)
            assert row.stuck_step == stuck_then


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": "undone"}, "is already undone"),
        ({"state": "refused"}, "had no effect"),
        ({"state": "attempting"}, "had no effect"),
        ({"kind": "query"}, "it is a query"),
        ({"kind": "sleep"}, "it is a sleep"),
        ({"number": 9}, "no step 2; its steps are 1, 3, 9"),
    ],
    ids=str,
)
async def test_a_step_with_nothing_to_undo_is_not_skipped(
    stocked: Database, changes: dict[str, object], message: str
) -> None:
    async with undoing(stocked, "before undo 3") as saga_in_undo:
        async with stocked.transaction() as connection:
            await connection.execute(update(saga_step).where(saga_step.c.number == 2).values(changes))
        before = await rows(stocked, saga_step)

        with pytest.raises(SkipRefused, match=message):
            await skip_step(stocked, CATALOG, saga_in_undo.skip(2))

        assert await rows(stocked, saga_step) == before


async def test_an_external_attempt_with_an_unknown_result_can_be_skipped(stocked: Database) -> None:
    async with undoing(stocked, "before undo 3") as saga_in_undo:
        async with stocked.transaction() as connection:
            await connection.execute(
                update(saga_step).where(saga_step.c.number == 2).values(kind="external", state="attempting")
            )

        await skip_step(stocked, CATALOG, saga_in_undo.skip(2))

        assert (await saga_in_undo.states())[2] == "skipped"


async def test_no_step_is_skipped_while_its_saga_can_still_be_undone(stocked: Database) -> None:
    key = await saga_abandoned_at(stocked, "before finish")

    with pytest.raises(SkipRefused, match="cancel the saga"):
        await skip_step(stocked, CATALOG, Skip(saga_id=key, number=2, by="olena", reason="no"))


@pytest.mark.parametrize(
    ("operation", "state", "message"),
    [
        ("cast.put", "attempting", None),
        ("cast.put", "done", "is done; past the pivot only a step that is not yet done"),
        ("cast.take", "attempting", "because `handle` needs the int that it returns"),
        ("cast.forgotten", "attempting", "because this code has no such operation"),
    ],
)
async def test_past_the_pivot_only_an_unfinished_step_without_a_result_can_be_skipped(
    stocked: Database, operation: str, state: str, message: str | None
) -> None:
    key = await saga_with_a_sent_letter(stocked)
    await add_step(stocked, key, 3, operation=operation, state=state)
    skip = Skip(saga_id=key, number=3, by="olena", reason="it is no longer needed")

    if message is None:
        assert (await skip_step(stocked, CATALOG, skip)).before is False
    else:
        with pytest.raises(SkipRefused, match=message):
            await skip_step(stocked, CATALOG, skip)

    [row] = [row for row in await rows(stocked, saga_step) if row.number == 3]
    assert row.state == ("skipped" if message is None else state)


async def test_a_saga_without_a_driver_is_cancelled_only_once(stocked: Database) -> None:
    key = await saga_abandoned_at(stocked, "before step 3")

    assert await cancel_saga(stocked, key, by="olena") is Phase.UNDOING
    assert await cancel_saga(stocked, key, by="taras") is Phase.UNDOING

    [row] = await rows(stocked, saga)
    assert (row.reason, row.error_code, row.ended_by) == ("cancelled", "saga.cancelled", "olena")


async def test_a_saga_past_its_pivot_is_not_cancelled(stocked: Database) -> None:
    key = await saga_with_a_sent_letter(stocked)

    assert await cancel_saga(stocked, key, by="olena") is Phase.FORWARD

    [row] = await rows(stocked, saga)
    assert (row.phase, row.ended_by) == ("forward", None)


class WorkerDied(BaseException):
    """The worker dies, and its driver with it."""


class Deadly(Pacer):
    """Kills its driver at the point."""

    async def at(self, point: str) -> None:
        """Kill the driver if this is its point."""
        if point == self.stop_at:
            raise WorkerDied


async def saga_abandoned_at(
    database: Database, point: str, orchestrator: type = CoinsMove, event: DomainEvent = EVENT
) -> UUID:
    """The id of a saga whose driver died at a point."""
    event_id = new_id()
    with pytest.raises(WorkerDied):
        await driver_of(database, orchestrator, event, event_id, Deadly(point)).drive()
    return saga_id(orchestrator.__name__, event_id)


async def saga_with_a_sent_letter(database: Database) -> UUID:
    """The id of a saga whose irreversible second step is done and whose driver has died."""
    return await saga_abandoned_at(database, "before finish", Letter, LetterRequested(source="a", coins=1))


async def add_step(database: Database, key: UUID, number: int, *, operation: str, state: str) -> None:
    """Add a step's row to a saga."""
    async with database.transaction() as connection:
        await connection.execute(
            insert(saga_step).values(
                saga_id=key,
                number=number,
                kind="operation",
                operation=operation,
                arguments="{}",
                digest="",
                attempt_token=uuid4(),
                state=state,
            )
        )
