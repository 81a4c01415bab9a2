"""Several operations as one atomic step: one row, one transaction and one undo, whichever driver runs it."""

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
from orchestrator.protocol.messages.envelope import wrap
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
    """Commit the step's transaction, which an operation may not do."""
    await (await tx.connection()).execute(text("COMMIT"))


@commits.compensation
async def uncommits(tx: Transaction) -> None:
    """Undo nothing."""


@query
async def writing(tx: Transaction) -> None:
    """Write, which a query may not do."""
    await (await tx.connection()).execute(text("DELETE FROM note"))


@external_operation(irreversible="what is said cannot be unsaid")
async def shout(call: ExternalCall) -> None:
    """Call an external service."""


class AnyRequested(DomainEvent):
    """Requests what the test has set in `Any_`."""


class AnyCompleted(DomainEvent):
    """The calls have completed."""


class AnyFailed(FailureEvent):
    """The calls were undone."""


class Any_(Orchestrator[AnyRequested, AnyCompleted, AnyFailed]):
    """Runs the test's calls as one atomic step, optionally after a pivot, optionally refusing at the end."""

    calls: ClassVar[Sequence[Any]] = ()
    pivot: ClassVar[bool] = False
    refuse: ClassVar[bool] = False
    answered: ClassVar[list[Any]] = []

    async def handle(self, event: AnyRequested, saga: Saga) -> AnyCompleted:
        if self.pivot:
            await saga.pivot()
        Any_.answered = list(await saga.execute_atomically(*Any_.calls))
        if self.refuse:
            raise Refused("any.refused", "asked to")
        return AnyCompleted()


ALL = Catalog.of(
    orchestrators=[Any_], operations=[take, put, write_note, count, send_letter, deliver, commits, writing, shout]
)


class Once(StoreSteps):
    """Steps that are not retried: one that raises has failed."""

    async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
        try:
            return await super().run(command, deadline)
        except Exception as fault:
            raise StepFailed(f"{type(fault).__name__}: {fault}") from fault


def data_of(outcome: Outcome) -> Any:
    """The data of the outcome's event."""
    return outcome.event["data"]


def driver(database: Database, event_id: str = "e-1") -> Driver:
    """A driver of `Any_`."""
    envelope = wrap(AnyRequested(), event_id=event_id, source="tests")
    return Driver(Any_, AnyRequested(), envelope, Once(database, ALL))


def calling(*calls: OperationCall[Any], pivot: bool = False, refuse: bool = False) -> None:
    """Set what `Any_` does: the calls of its one atomic step, a pivot before it, a refusal after it."""
    Any_.calls, Any_.pivot, Any_.refuse = calls, pivot, refuse


async def test_an_atomic_step_is_one_row_with_every_result(stocked: Database) -> None:
    """A repeat takes the results from the row and runs nothing."""
    outcome = await driver_of(stocked, AtomicMove, EVENT, "e-1").drive()
    assert data_of(outcome)["before"] == 1_000
    first, _ = await rows(stocked, saga_step)
    assert (first.kind, first.operation, json.loads(first.result)) == ("atomic", "saga.atomic", [1_000, 10, None])
    runs = list(Script.runs)

    assert await driver_of(stocked, AtomicMove, EVENT, "e-1").drive() == outcome
    assert Script.runs == runs
    assert (await Holdings.of(stocked)).boxes == {"a": 990, "b": 10}


async def test_a_refusal_by_the_second_call_rolls_back_the_first(stocked: Database) -> None:
    """No effect remains, and the row names the operation that refused."""
    before = await Holdings.of(stocked)
    Script.before["put"] = refuses("box.full")

    outcome = await driver_of(stocked, AtomicMove, EVENT, "e-1").drive()

    assert (outcome.phase, outcome.error_code, data_of(outcome)["undone"]) == (Phase.FAILED, "box.full", [])
    assert await Holdings.of(stocked) == before
    [step] = await rows(stocked, saga_step)
    assert (step.state, json.loads(step.error)["operation"]) == ("refused", "cast.put")
    assert "give_back" not in Script.runs


async def test_an_atomic_step_is_undone_in_reverse_order_in_one_transaction(stocked: Database) -> None:
    """The last call is undone first, and the failure event names each call that was undone."""
    before = await Holdings.of(stocked)
    Script.before["write_note"] = refuses()

    outcome = await driver_of(stocked, AtomicMove, EVENT, "e-1").drive()

    assert await Holdings.of(stocked) == before
    assert Script.runs[-2:] == ["take_out", "give_back"]
    undone = [(call["number"], call["operation"], call["compensation"]) for call in data_of(outcome)["undone"]]
    assert undone == [(1, "cast.put", "cast.take_out"), (1, "cast.take", "cast.give_back")]


async def test_an_atomic_step_is_undone_as_a_whole_or_skipped_as_a_whole(stocked: Database) -> None:
    """When the second compensation fails, the first is rolled back too, until a person skips the whole step."""
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

    assert [call["skipped"] for call in data_of(outcome)["undone"]] == [True, True]
    assert (await Holdings.of(stocked)).boxes == {"a": 990, "b": 10}


@pytest.mark.parametrize("forward_point", ["before step 1", "inside step 1", "after step 1", "before step 2"])
async def test_one_driver_runs_an_atomic_step_while_another_undoes_it(stocked: Database, forward_point: str) -> None:
    """Both drivers report one outcome and its effects, whichever of them continues first."""
    stop_inside_operations()
    for back_point in ("before begin undo", "after begin undo", "before undo 1", "inside undo 1", "after undo 1"):
        for forward_first in (True, False):
            case = f"{forward_point}, {back_point}, forward first: {forward_first}"
            before = await Holdings.of(stocked)
            forward_pacer, back_pacer = Pacer(forward_point), Pacer(back_point)
            event_id = re.sub(r"[^a-z0-9]+", "-", case.lower())
            forward = asyncio.create_task(driver_of(stocked, AtomicMove, EVENT, event_id, forward_pacer).drive())
            await until_stopped(stocked, forward_pacer, forward)
            undoing = driver_of(stocked, AtomicMove, EVENT, event_id, back_pacer)
            back = asyncio.create_task(undoing.undo(Phase.CANCELLED, "saga.cancelled", "by a test"))
            await until_stopped(stocked, back_pacer, back)
            (forward_pacer if forward_first else back_pacer).go_on.set()
            await until_done_or_waiting(stocked, forward if forward_first else back)
            (back_pacer if forward_first else forward_pacer).go_on.set()
            async with asyncio.timeout(20):
                outcomes: list[Outcome] = list(await asyncio.gather(forward, back))
            assert outcomes[0] == outcomes[1], case
            expected = before.moved("a", "b", 10) if outcomes[0].phase is Phase.COMPLETED else before
            assert await Holdings.of(stocked) == expected, case


async def test_two_drivers_run_an_atomic_step_only_once(stocked: Database) -> None:
    """The second driver finds the first one's row and runs nothing."""
    stop_inside_operations()
    pacer = Pacer("inside step 1")
    first = asyncio.create_task(driver_of(stocked, AtomicMove, EVENT, "e-1", pacer).drive())
    await until_stopped(stocked, pacer, first)
    second = asyncio.create_task(driver_of(stocked, AtomicMove, EVENT, "e-1").drive())
    await until_done_or_waiting(stocked, second)
    pacer.go_on.set()
    assert await first == await second
    assert (await Holdings.of(stocked)).boxes == {"a": 990, "b": 10}
    assert Script.runs.count("put") == 1


async def test_each_call_generates_its_own_ids_and_the_same_ones_in_a_retry(stocked: Database) -> None:
    """The step calls one operation twice, and its first attempt fails."""
    calling(write_note("one"), write_note("two"), put("b", 1))
    Script.before["put"] = fails(1)
    seen: list[list[str]] = []

    async def record_ids(tx: Transaction) -> None:
        seen.append(sorted((await tx.exec(select(note.c.id))).all()))

    Script.after["write_note"] = record_ids

    class Again(StoreSteps):
        """Retries a failed step once."""

        async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
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
    ("misused", "message"), [(commits(), "may not begin or end"), (writing(), "a @query only reads")], ids=str
)
async def test_misuse_inside_an_atomic_step_rolls_it_back(
    stocked: Database, misused: OperationCall[Any], message: str
) -> None:
    """An operation that ends the transaction, and a query that writes, leave nothing of the step."""
    before = await Holdings.of(stocked)
    calling(take("a", 1), misused, put("b", 1))
    outcome = await driver(stocked).drive()
    assert outcome.phase is Phase.FAILED
    assert TransactionMisuse.__name__ in (outcome.message or "")
    assert message in (outcome.message or "")
    assert await Holdings.of(stocked) == before


async def test_an_atomic_step_with_a_changed_call_differs_from_its_record(stocked: Database) -> None:
    """The error shows the recorded calls and the new ones in readable form."""
    calling(take("a", 1), put("b", 1))

    class Stops(Once):
        """Cannot finish a saga, so that it stays open."""

        async def finish(self, command: Any) -> Any:
            raise ConnectionError

    envelope = wrap(AnyRequested(), event_id="e-1", source="tests")
    with pytest.raises(ConnectionError):
        await Driver(Any_, AnyRequested(), envelope, Stops(stocked, ALL)).drive()
    calling(take("a", 1), put("b", 2))
    with pytest.raises(SagaStuck) as stuck:
        await driver(stocked).drive()
    assert "atomically cast.take(coins=1, name='a'), cast.put(coins=1, name='b')" in str(stuck.value)
    assert "now atomically cast.take(name='a', coins=1), cast.put(name='b', coins=2)" in str(stuck.value)


async def test_an_atomic_step_with_an_irreversible_call_is_the_pivot(stocked: Database) -> None:
    """Its row is marked irreversible."""
    calling(take("a", 1), send_letter("gone"))
    await driver(stocked).drive()
    [step] = await rows(stocked, saga_step)
    assert (step.kind, step.irreversible) == ("atomic", True)


async def test_an_atomic_step_of_queries_has_nothing_to_undo(stocked: Database) -> None:
    """It is recorded as a query."""
    calling(count("a"), count("b"), refuse=True)
    outcome = await driver(stocked).drive()
    assert Any_.answered == [1_000, 0]
    assert data_of(outcome)["undone"] == []
    [step] = await rows(stocked, saga_step)
    assert (step.kind, step.state) == ("query", "done")


async def test_calls_that_an_atomic_step_may_not_contain_are_refused(stocked: Database) -> None:
    """Each is refused with its reason before anything runs."""
    wrong: list[tuple[list[Any], str]] = [
        ([take("a", 1), shout()], "calls an external service"),
        ([take("a", 1), deliver("x")], "the saga has no pivot before it"),
        (["take"], "takes calls, as in"),
        ([take("a", 1), Atomically(put("b", 1))], "is inside another one"),
    ]
    for calls, message in wrong:
        calling(*calls)
        with pytest.raises(UsageError, match=message):
            await driver(stocked).drive()
    calling(deliver("x"), put("b", 1), pivot=True)
    with pytest.raises(UsageError, match=r"comes after saga\.pivot"):
        await driver(stocked).drive()
    calling(deliver("x"), count("a"), pivot=True)
    assert (await driver(stocked, "e-2").drive()).phase is Phase.COMPLETED


def test_the_deadline_and_reversal_of_an_atomic_step_follow_from_its_calls() -> None:
    """It has the longest deadline of its calls and one reversal for all of them."""
    assert Atomically(take("a", 1), commits()).operation.deadline == timedelta(hours=1)
    assert Atomically(deliver("x"), count("a")).operation.reversal is Reversal.RETRIABLE
    assert Atomically(take("a", 1), send_letter("x")).operation.reversal is Reversal.IRREVERSIBLE
    assert Atomically(take("a", 1)) == Atomically(take("a", 1))
    assert Atomically(take("a", 1)) != Atomically(take("a", 2))


async def test_a_saga_view_shows_the_operations_of_an_atomic_step_and_their_compensations(stocked: Database) -> None:
    """The undo plan names the compensations, unless the catalog is unknown."""
    await driver_of(stocked, AtomicMove, EVENT, "e-1").drive()
    [view] = await sagas_of_event(stocked, "e-1")

    assert view.steps[0].shown == "cast.count, cast.take, cast.put"
    first = plan_undo(view, CATALOG)[-1]
    expected = "cast.take_out(name='b', coins=10), then cast.give_back(name='a', coins=10)"
    assert (first.number, first.compensation) == (1, expected)
    assert plan_undo(view, None)[-1].compensation is None


async def test_an_atomic_step_past_the_pivot_can_be_skipped_if_its_results_are_not_needed(stocked: Database) -> None:
    """The skipped step returns None for each call."""
    # Both letters have the same key, so the second can never be written.
    calling(deliver("one"), deliver("two"), pivot=True)
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
