"""Several operations as one step: one row, one transaction, one undo; whoever drives, whatever is refused."""

import asyncio
import json
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from orchestrator import Catalog, DomainEvent, FailureEvent, Orchestrator, Refused, Saga, Transaction, operation, query
from orchestrator.cli.sagas.undo_plan import plan_undo
from orchestrator.definition.atomic import Atomically
from orchestrator.drive.driver import Driver, SagaStuck
from orchestrator.drive.steps import StepFailed
from orchestrator.errors import TransactionMisuse, UsageError
from orchestrator.external import ExternalCall, external_operation
from orchestrator.operation import OperationCall, Reversal
from orchestrator.protocol.commands import (
    STUCK_AFTER,
    MarkStuckCommand,
    Outcome,
    Phase,
    SagaRef,
    StepCommand,
    StepReply,
)
from orchestrator.protocol.envelope import wrap
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.queries.sagas import sagas_of_event
from orchestrator.store.saga.intervention import Skip, skip_step
from orchestrator.store.saga.steps import StoreSteps
from tests.cast import Script, count, deliver, fails, note, put, refuses, send_letter, take, write_note
from tests.cast_events import AtomicMoveRequested
from tests.house import CATALOG, Holdings, rows
from tests.orchestrators import AtomicMove
from tests.store.pacing import Pacer, driver_of, stop_inside_operations, until_stopped
from tests.store.test_two_drivers import until_done_or_waiting

EVENT = AtomicMoveRequested(source="a", target="b", coins=10)


@operation(deadline=timedelta(hours=1))
async def commits(tx: Transaction) -> None:
    """Ends the transaction."""
    await (await tx.connection()).execute(text("COMMIT"))


@commits.compensation
async def uncommits(tx: Transaction) -> None:
    """Nothing."""


@query
async def writing(tx: Transaction) -> None:
    """Writes though it only asks."""
    await (await tx.connection()).execute(text("DELETE FROM note"))


@external_operation(irreversible="it is said")
async def shout(call: ExternalCall) -> None:
    """Outside."""


class AnyRequested(DomainEvent):
    """Whatever the test says."""


class AnyCompleted(DomainEvent):
    """Done."""


class AnyFailed(FailureEvent):
    """Not done."""


class Any_(Orchestrator[AnyRequested, AnyCompleted, AnyFailed]):
    """Runs what a test says as one step, after a pivot or not, and says no at the end or not."""

    calls: ClassVar[Sequence[Any]] = ()
    pivot: ClassVar[bool] = False
    refuse: ClassVar[bool] = False
    answered: ClassVar[list[Any]] = []

    async def handle(self, event: AnyRequested, saga: Saga) -> AnyCompleted:
        """The step."""
        if self.pivot:
            await saga.pivot()
        Any_.answered = await saga.execute_all_atomically(Any_.calls)
        if self.refuse:
            raise Refused("any.refused", "asked to")
        return AnyCompleted()


ALL = Catalog.of(
    orchestrators=[Any_], operations=[take, put, write_note, count, send_letter, deliver, commits, writing, shout]
)


class Once(StoreSteps):
    """A step that raises has failed for good, and so has an undo after so many times."""

    async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
        """A step."""
        try:
            return await super().run(command, deadline)
        except Exception as fault:
            raise StepFailed(f"{type(fault).__name__}: {fault}") from fault


def data_of(outcome: Outcome) -> Any:
    """Fields of the outcome's event."""
    return outcome.event["data"]


def driver(database: Database, event_id: str = "e-1") -> Driver:
    """Of the test's own calls."""
    envelope = wrap(AnyRequested(), event_id=event_id, source="tests")
    return Driver(Any_, AnyRequested(), envelope, Once(database, ALL))


def calling(*calls: OperationCall[Any], pivot: bool = False, refuse: bool = False) -> None:
    """Say what the orchestrator does: the calls of its one atomic step, a pivot before it, a refusal after it."""
    Any_.calls, Any_.pivot, Any_.refuse = calls, pivot, refuse


async def test_it_is_one_row_and_gives_every_result(stocked: Database) -> None:
    """Recorded with its calls; a repeat runs nothing."""
    outcome = await driver_of(stocked, AtomicMove, EVENT, "e-1").drive()
    assert data_of(outcome)["before"] == 1_000
    first, _ = await rows(stocked, saga_step)
    assert (first.kind, first.operation, json.loads(first.result)) == ("atomic", "saga.atomic", [1_000, 10, None])
    runs = list(Script.runs)

    assert await driver_of(stocked, AtomicMove, EVENT, "e-1").drive() == outcome
    assert Script.runs == runs
    assert (await Holdings.of(stocked)).boxes == {"a": 990, "b": 10}


async def test_a_refusal_of_the_second_takes_the_first_back(stocked: Database) -> None:
    """Nothing stands, the row says who said no, and a repeat hears it again."""
    before = await Holdings.of(stocked)
    Script.before["put"] = refuses("box.full")

    outcome = await driver_of(stocked, AtomicMove, EVENT, "e-1").drive()

    assert (outcome.phase, outcome.error_code, data_of(outcome)["undone"]) == (Phase.FAILED, "box.full", [])
    assert await Holdings.of(stocked) == before
    [step] = await rows(stocked, saga_step)
    assert (step.state, json.loads(step.error)["operation"]) == ("refused", "cast.put")
    assert "give_back" not in Script.runs


async def test_it_is_undone_in_reverse_order_in_one_transaction(stocked: Database) -> None:
    """The last call first; the failure event names each call that was taken back."""
    before = await Holdings.of(stocked)
    Script.before["write_note"] = refuses()

    outcome = await driver_of(stocked, AtomicMove, EVENT, "e-1").drive()

    assert await Holdings.of(stocked) == before
    assert Script.runs[-2:] == ["take_out", "give_back"]
    undone = [(one["number"], one["operation"], one["compensation"]) for one in data_of(outcome)["undone"]]
    assert undone == [(1, "cast.put", "cast.take_out"), (1, "cast.take", "cast.give_back")]


async def test_an_undo_is_whole_or_not_at_all_and_can_be_skipped(stocked: Database) -> None:
    """A second compensation that fails takes the first one's effect back; counted, stuck, skipped as a whole."""
    Script.before["write_note"] = refuses()
    Script.before["give_back"] = fails()
    for _ in range(STUCK_AFTER):
        with pytest.raises(RuntimeError):
            await driver_of(stocked, AtomicMove, EVENT, "e-1").drive()
        assert (await Holdings.of(stocked)).boxes == {"a": 990, "b": 10}
    [row] = await rows(stocked, saga)
    assert row.stuck_step == 1
    assert "cast.take, cast.put" in row.stuck_error

    await skip_step(stocked, CATALOG, Skip(saga_id=row.id, number=1, by="Ann", reason="paid by hand"))
    outcome = await driver_of(stocked, AtomicMove, EVENT, "e-1").drive()

    assert [one["skipped"] for one in data_of(outcome)["undone"]] == [True, True]
    assert (await Holdings.of(stocked)).boxes == {"a": 990, "b": 10}


@pytest.mark.parametrize("forward_point", ["before step 1", "inside step 1", "after step 1", "before step 2"])
async def test_one_does_it_while_another_undoes(stocked: Database, forward_point: str) -> None:
    """At the step and at its undo, whoever goes on first: one outcome, and its effects."""
    stop_inside_operations()
    for back_point in ("before turn", "after turn", "before undo 1", "inside undo 1", "after undo 1"):
        for forward_first in (True, False):
            told = f"{forward_point}, {back_point}, forward first: {forward_first}"
            before = await Holdings.of(stocked)
            one, two = Pacer(forward_point), Pacer(back_point)
            event_id = re.sub(r"[^a-z0-9]+", "-", told.lower())
            forward = asyncio.create_task(driver_of(stocked, AtomicMove, EVENT, event_id, one).drive())
            await until_stopped(stocked, one, forward)
            undoing = driver_of(stocked, AtomicMove, EVENT, event_id, two)
            back = asyncio.create_task(undoing.undo(Phase.CANCELLED, "saga.cancelled", "by a test"))
            await until_stopped(stocked, two, back)
            (one if forward_first else two).go_on.set()
            await until_done_or_waiting(stocked, forward if forward_first else back)
            (two if forward_first else one).go_on.set()
            async with asyncio.timeout(20):
                outcomes: list[Outcome] = list(await asyncio.gather(forward, back))
            assert outcomes[0] == outcomes[1], told
            expected = before.moved("a", "b", 10) if outcomes[0].phase is Phase.COMPLETED else before
            assert await Holdings.of(stocked) == expected, told


async def test_two_do_it_at_once(stocked: Database) -> None:
    """The second finds the row and runs nothing."""
    stop_inside_operations()
    one = Pacer("inside step 1")
    first = asyncio.create_task(driver_of(stocked, AtomicMove, EVENT, "e-1", one).drive())
    await until_stopped(stocked, one, first)
    second = asyncio.create_task(driver_of(stocked, AtomicMove, EVENT, "e-1").drive())
    await until_done_or_waiting(stocked, second)
    one.go_on.set()
    assert await first == await second
    assert (await Holdings.of(stocked)).boxes == {"a": 990, "b": 10}
    assert Script.runs.count("put") == 1


async def test_each_call_draws_ids_of_its_own_and_the_same_again(stocked: Database) -> None:
    """One operation twice in a step; an attempt that failed drew the same."""
    calling(write_note("one"), write_note("two"), put("b", 1))
    Script.before["put"] = fails(1)
    seen: list[list[str]] = []

    async def see(tx: Transaction) -> None:
        seen.append(sorted((await tx.exec(select(note.c.id))).all()))

    Script.after["write_note"] = see

    class Again(StoreSteps):
        """Tries a step that failed once more."""

        async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
            """A step."""
            try:
                return await super().run(command, deadline)
            except RuntimeError:
                return await super().run(command, deadline, attempt=2)

    envelope = wrap(AnyRequested(), event_id="e-1", source="tests")
    await Driver(Any_, AnyRequested(), envelope, Again(stocked, ALL)).drive()

    first, second, *again = seen
    assert (len(first), len(second)) == (1, 2)
    assert again == [first, second]
    assert sorted(Any_.answered[:2]) == second


@pytest.mark.parametrize(
    ("misused", "told"), [(commits(), "may not begin or end"), (writing(), "a @query only reads")], ids=str
)
async def test_misuse_inside_takes_all_back(stocked: Database, misused: OperationCall[Any], told: str) -> None:
    """An operation that ends the transaction, and a query that writes, leave nothing of the step."""
    before = await Holdings.of(stocked)
    calling(take("a", 1), misused, put("b", 1))
    outcome = await driver(stocked).drive()
    assert outcome.phase is Phase.FAILED
    assert TransactionMisuse.__name__ in (outcome.message or "")
    assert told in (outcome.message or "")
    assert await Holdings.of(stocked) == before


async def test_another_call_inside_is_another_step(stocked: Database) -> None:
    """Told with the calls of both, as a person reads them."""
    calling(take("a", 1), put("b", 1))

    class Stops(Once):
        """No finish: the saga stays open."""

        async def finish(self, command: Any) -> Any:
            """Not now."""
            raise ConnectionError

    envelope = wrap(AnyRequested(), event_id="e-1", source="tests")
    with pytest.raises(ConnectionError):
        await Driver(Any_, AnyRequested(), envelope, Stops(stocked, ALL)).drive()
    calling(take("a", 1), put("b", 2))
    with pytest.raises(SagaStuck) as stuck:
        await driver(stocked).drive()
    assert "atomically cast.take(coins=1, name='a'), cast.put(coins=1, name='b')" in str(stuck.value)
    assert "now atomically cast.take(name='a', coins=1), cast.put(name='b', coins=2)" in str(stuck.value)


async def test_with_an_irreversible_call_it_is_the_pivot(stocked: Database) -> None:
    """Nothing of it is undone, and a cancel after it goes on."""
    calling(take("a", 1), send_letter("gone"))
    await driver(stocked).drive()
    [step] = await rows(stocked, saga_step)
    assert (step.kind, step.irreversible) == ("atomic", True)


async def test_queries_alone_have_nothing_to_undo(stocked: Database) -> None:
    """They are one look at the database, recorded as a query."""
    calling(count("a"), count("b"), refuse=True)
    outcome = await driver(stocked).drive()
    assert Any_.answered == [1_000, 0]
    assert data_of(outcome)["undone"] == []
    [step] = await rows(stocked, saga_step)
    assert (step.kind, step.state) == ("query", "done")


async def test_what_may_not_be_in_it(stocked: Database) -> None:
    """Told with the reason, before anything runs."""
    wrong: list[tuple[list[Any], str]] = [
        ([take("a", 1), shout()], "calls an external service"),
        ([take("a", 1), deliver("x")], "the saga has no pivot before it"),
        (["take"], "takes calls, as in"),
        ([take("a", 1), Atomically(put("b", 1))], "is inside another one"),
    ]
    for calls, told in wrong:
        calling(*calls)
        with pytest.raises(UsageError, match=told):
            await driver(stocked).drive()
    calling(deliver("x"), put("b", 1), pivot=True)
    with pytest.raises(UsageError, match=r"comes after saga\.pivot"):
        await driver(stocked).drive()
    calling(deliver("x"), count("a"), pivot=True)
    assert (await driver(stocked, "e-2").drive()).phase is Phase.COMPLETED


def test_what_it_is_follows_from_its_calls() -> None:
    """The longest deadline, and the reversal of the whole."""
    assert Atomically(take("a", 1), commits()).operation.deadline == timedelta(hours=1)
    assert Atomically(deliver("x"), count("a")).operation.reversal is Reversal.RETRIABLE
    assert Atomically(take("a", 1), send_letter("x")).operation.reversal is Reversal.IRREVERSIBLE
    assert Atomically(take("a", 1)) == Atomically(take("a", 1))
    assert Atomically(take("a", 1)) != Atomically(take("a", 2))


async def test_a_person_sees_its_operations_and_how_each_would_be_undone(stocked: Database) -> None:
    """In the list of steps and in the plan of an undoing, by this code and by code that does not know them."""
    await driver_of(stocked, AtomicMove, EVENT, "e-1").drive()
    [view] = await sagas_of_event(stocked, "e-1")

    assert view.steps[0].shown == "cast.count, cast.take, cast.put"
    first = plan_undo(view, CATALOG)[-1]
    expected = "cast.take_out(name='b', coins=10), then cast.give_back(name='a', coins=10)"
    assert (first.number, first.compensation) == (1, expected)
    assert plan_undo(view, None)[-1].compensation is None


async def test_past_the_pivot_it_is_skipped_where_nothing_needs_its_results(stocked: Database) -> None:
    """A stuck step that is left out answers None for each call."""
    calling(deliver("one"), deliver("two"), pivot=True)  # the second letter of one key: it never can be written
    steps = StoreSteps(stocked, ALL)
    envelope = wrap(AnyRequested(), event_id="e-1", source="tests")
    with pytest.raises(IntegrityError):
        await Driver(Any_, AnyRequested(), envelope, steps).drive()
    [row] = await rows(stocked, saga)
    call = Atomically(*Any_.calls)
    ref = SagaRef(id=row.id, orchestrator="Any_", event_id="e-1")
    time = envelope.time.isoformat()
    command = StepCommand(
        saga=ref, number=2, operation="saga.atomic", arguments=dict(call.arguments), event_time=time, past_pivot=True
    )
    await steps.mark_stuck(MarkStuckCommand(saga=ref, number=2, error="it fails", step=command))

    await skip_step(stocked, ALL, Skip(saga_id=row.id, number=2, by="Ann", reason="delivered by hand"))
    outcome = await Driver(Any_, AnyRequested(), envelope, steps).drive()

    assert outcome.phase is Phase.COMPLETED
    assert Any_.answered == [None, None]
