"""What `handle` may do with its saga and what not, on a port that answers from a list."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, ClassVar, cast

import pytest
from pydantic import JsonValue

from orchestrator import DomainEvent, Orchestrator, Refused, Saga, UsageError
from orchestrator.drive.driver import Driver, SagaStuck
from orchestrator.drive.steps import StepFailed
from orchestrator.protocol.commands import (
    BeginUndoCommand,
    BeginUndoReply,
    Blocked,
    EndWaitCommand,
    FinishCommand,
    FinishReply,
    MarkStuckCommand,
    Outcome,
    PastPivot,
    Phase,
    StepCommand,
    StepDone,
    StepReply,
    UndoCommand,
    Undone,
    UndoPlan,
    UndoReply,
    WaitBegun,
    WaitCommand,
    WaitReply,
)
from orchestrator.protocol.envelope import Envelope, wrap
from tests.cast import deliver, put, send_letter, take, write_note
from tests.cast_events import NothingCompleted, NothingFailed, NothingRequested

Handle = Callable[[Saga], Awaitable[object]]


class Port:
    """Answers every step with done; remembers what it was asked."""

    def __init__(self, *, failing: str = "", past_pivot: bool = False) -> None:
        self.asked: list[str] = []
        self.failing = failing
        self.past_pivot = past_pivot

    async def run(self, command: StepCommand, deadline: timedelta) -> StepReply:
        """A step."""
        self.asked.append(f"{command.number} {command.operation}")
        await asyncio.sleep(0)
        if command.operation == self.failing:
            raise StepFailed("it failed for good")
        results = {"cast.take": 1, "cast.write_note": "note"}
        return StepDone(number=command.number, operation=command.operation, result=results.get(command.operation))

    async def wait_for_locks(self, blocked: Blocked) -> None:
        """It is free at once."""
        self.asked.append(f"waits for {blocked.by[0].key}")

    async def begin_wait(self, command: WaitCommand) -> WaitReply:
        """A wait begins."""
        self.asked.append(f"{command.number} {command.operation}")
        return WaitBegun(number=command.number, seconds_left=command.seconds)

    async def pause(self, number: int, seconds: float) -> None:
        """No time passes."""
        self.asked.append(f"{number} for {seconds} s")

    async def receive(
        self, number: int, event: type[DomainEvent], matching: Callable[[DomainEvent], bool], seconds: float
    ) -> Envelope | None:
        """The one event there is, if it is wanted."""
        if matching(NothingRequested(refuse=True)):
            return wrap(NothingRequested(refuse=True), event_id="sent", source="tests")
        return None

    def received(self, envelope: Envelope, event: DomainEvent) -> None:
        """Told which."""
        self.asked.append(f"received {envelope.event_id}")

    async def end_wait(self, command: EndWaitCommand) -> StepReply:
        """A wait ends."""
        return StepDone(number=command.number, operation=command.operation, result=command.result)

    async def begin_undo(self, command: BeginUndoCommand) -> BeginUndoReply:
        """A turn."""
        self.asked.append(f"turn {command.error_code}")
        if self.past_pivot:
            return PastPivot(number=1)
        return UndoPlan(steps=(), ends_as=command.ends_as, event_time="2026-01-01T00:00:00Z")

    async def undo(self, command: UndoCommand, compensation: str) -> UndoReply:
        """An undoing."""
        return Undone(number=command.number)

    async def finish(self, command: FinishCommand) -> FinishReply:
        """A finish."""
        self.asked.append("finish completed" if command.completed is not None else "finish undone")
        phase = Phase.COMPLETED if command.completed is not None else Phase.FAILED
        return Outcome(phase=phase, event_id="one", content_digest="", triggering={}, event={})

    async def mark_stuck(self, command: MarkStuckCommand) -> None:
        """Stuck."""
        self.asked.append("stuck")


async def drive(handle: Handle, port: Port, *, waits_for: tuple[type[DomainEvent], ...] = ()) -> Outcome:
    """Drive a saga whose `handle` is this function."""

    class Scripted(Orchestrator[NothingRequested, NothingCompleted, NothingFailed]):
        awaited = waits_for

        async def handle(self, event: NothingRequested, saga: Saga) -> NothingCompleted:
            return cast(NothingCompleted, await handle(saga))

    event = NothingRequested(refuse=False)
    return await Driver(Scripted, event, wrap(event, event_id="one", source="tests"), port).drive()


async def test_a_second_step_while_one_is_open_is_refused_as_its_number_would_depend_on_timing() -> None:
    async def handle(saga: Saga) -> object:
        await asyncio.gather(saga.execute(take("a", 1)), saga.execute(put("a", 1)))
        return NothingCompleted()

    with pytest.raises(UsageError, match="parallel=True"):
        await drive(handle, Port())


async def test_what_is_no_described_call_is_refused_with_the_right_form() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute(cast(Any, "account.withdraw"))
        return NothingCompleted()

    with pytest.raises(UsageError, match=r"saga\.execute\(withdraw"):
        await drive(handle, Port())


async def test_a_step_that_could_need_undoing_after_one_that_cannot_be_undone_is_refused() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute(send_letter("x"))
        await saga.execute(take("a", 1))
        return NothingCompleted()

    with pytest.raises(UsageError, match="Put the irreversible step last"):
        await drive(handle, Port())


async def test_an_irreversible_step_is_not_run_at_once_with_others() -> None:
    """One of them refused, there would be no way back and none forward."""

    async def handle(saga: Saga) -> object:
        await saga.execute_batch(send_letter("x"), take("a", 1), parallel=True)
        return NothingCompleted()

    port = Port()
    with pytest.raises(UsageError, match="in its own `execute`"):
        await drive(handle, port)
    assert port.asked == []


async def test_the_arguments_and_results_of_a_saga_have_a_limit() -> None:
    async def handle(saga: Saga) -> object:
        for _ in range(200):
            await saga.execute(write_note("x" * 200_000))
        return NothingCompleted()

    with pytest.raises(UsageError, match="arguments and results of one saga"):
        await drive(handle, Port())


async def test_a_wait_has_an_end_that_calendars_know() -> None:
    async def handle(saga: Saga) -> object:
        await saga.sleep(timedelta(days=100_000))
        return NothingCompleted()

    with pytest.raises(UsageError, match="the limit is 3,660 days"):
        await drive(handle, Port())


async def test_so_it_is_in_one_batch() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute_batch(send_letter("x"), take("a", 1))
        return NothingCompleted()

    port = Port()
    with pytest.raises(UsageError, match="Put the irreversible step last"):
        await drive(handle, port)
    assert port.asked == []


async def test_a_retriable_step_before_any_pivot_is_refused() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute(deliver("x"))
        return NothingCompleted()

    with pytest.raises(UsageError, match=r"Write `await saga\.pivot\(\)` first"):
        await drive(handle, Port())


@pytest.mark.parametrize("pivot", ["a pivot", "an irreversible step", "one in the same batch"])
async def test_a_retriable_step_comes_after_the_pivot(pivot: str) -> None:
    async def handle(saga: Saga) -> object:
        match pivot:
            case "a pivot":
                await saga.pivot()
                await saga.execute(deliver("x"))
            case "an irreversible step":
                await saga.execute(send_letter("x"))
                await saga.execute(deliver("x"))
            case _:
                await saga.execute_batch(send_letter("x"), deliver("x"))
        return NothingCompleted()

    port = Port()
    await drive(handle, port)

    assert port.asked[1:] == ["2 cast.deliver", "finish completed"]


async def test_a_sleep_is_a_step() -> None:
    async def handle(saga: Saga) -> object:
        await saga.sleep(timedelta(seconds=3))
        return NothingCompleted()

    port = Port()
    await drive(handle, port)

    assert port.asked == ["1 saga.sleep", "1 for 3.0 s", "finish completed"]


async def test_a_sleep_back_in_time_is_refused() -> None:
    async def handle(saga: Saga) -> object:
        await saga.sleep(timedelta(seconds=-1))
        return NothingCompleted()

    with pytest.raises(UsageError, match="has the negative duration"):
        await drive(handle, Port())


async def test_an_event_that_is_waited_for_is_received_as_its_contract_has_it() -> None:
    got: list[object] = []

    async def handle(saga: Saga) -> object:
        got.append(await saga.wait_for(NothingRequested, timeout=timedelta(seconds=1)))
        never = timedelta(seconds=1)
        got.append(await saga.wait_for(NothingRequested, matching=lambda one: not one.refuse, timeout=never))
        return NothingCompleted()

    port = Port()
    await drive(handle, port, waits_for=(NothingRequested,))

    assert got == [NothingRequested(refuse=True), None]
    assert port.asked == ["1 saga.wait_for", "received sent", "2 saga.wait_for", "finish completed"]


async def test_an_event_that_the_orchestrator_does_not_name_is_not_waited_for() -> None:
    async def handle(saga: Saga) -> object:
        await saga.wait_for(NothingRequested, timeout=timedelta(seconds=1))
        return NothingCompleted()

    with pytest.raises(UsageError, match=r"awaited = \(NothingRequested,\)"):
        await drive(handle, Port())


async def test_arguments_larger_than_a_history_should_carry_are_refused() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute(write_note("x" * 300_000))
        return NothingCompleted()

    with pytest.raises(UsageError, match=r"arguments of cast\.write_note take"):
        await drive(handle, Port())


async def test_a_handle_that_returns_something_else_is_told_so() -> None:
    async def handle(saga: Saga) -> object:
        return "done"

    with pytest.raises(UsageError, match="must return NothingCompleted, but returned str"):
        await drive(handle, Port())


class AnyCompleted(DomainEvent):
    """Any JSON."""

    said: JsonValue = None


class AnyCompletedElse(AnyCompleted):
    """A field that nobody who reads an `AnyCompleted` expects."""

    surplus: int = 1


class Saying(Orchestrator[NothingRequested, AnyCompleted, NothingFailed]):
    """Ends with what a test says."""

    said: ClassVar[AnyCompleted]

    async def handle(self, event: NothingRequested, saga: Saga) -> AnyCompleted:
        return self.said


def _nested(levels: int) -> JsonValue:
    return [_nested(levels - 1)] if levels else 1


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (AnyCompleted(said=_nested(100)), "nested deeper than 100 levels"),
        (AnyCompleted(said=_nested(220)), "nested deeper|cannot be written"),
        (AnyCompleted.model_construct(said=float("nan")), "holds what JSON cannot"),
        (AnyCompletedElse(), "surplus"),
    ],
    ids=["nested", "very nested", "NaN", "a subclass"],
)
async def test_an_outcome_that_could_not_be_read_as_it_is_ends_no_saga(said: AnyCompleted, why: str) -> None:
    Saying.said = said
    event = NothingRequested(refuse=False)
    port = Port()

    with pytest.raises(UsageError, match=f"returned a AnyCompleted that cannot be recorded: .*({why})"):
        await Driver(Saying, event, wrap(event, event_id="one", source="tests"), port).drive()

    assert port.asked == []


@pytest.mark.parametrize("swallowed", [Exception, BaseException])
async def test_a_handle_that_swallows_a_failure_is_undone_all_the_same(swallowed: type[BaseException]) -> None:
    async def handle(saga: Saga) -> object:
        with contextlib.suppress(swallowed):
            await saga.execute(take("a", 1))
        with contextlib.suppress(swallowed):
            await saga.execute(put("a", 1))
        return NothingCompleted()

    port = Port(failing="cast.take")

    outcome = await drive(handle, port)

    assert outcome.phase is Phase.FAILED
    assert port.asked == ["1 cast.take", "turn operation.failed", "finish undone"]


async def test_what_handle_raises_on_its_way_out_of_an_interruption_is_not_its_answer() -> None:
    async def handle(saga: Saga) -> object:
        try:
            await saga.execute(take("a", 1))
        finally:
            raise UnboundLocalError("as a variable of the step would be")

    assert (await drive(handle, Port(failing="cast.take"))).phase is Phase.FAILED


@pytest.mark.parametrize(
    "group",
    [
        [Refused("box.closed", "no")],
        [ExceptionGroup("inner", [Refused("box.closed", "no")])],
        [ValueError("boom"), Refused("box.closed", "no"), Refused("box.other", "no")],
    ],
)
async def test_a_refusal_inside_a_group_that_handle_raises_is_the_refusal(group: list[Exception]) -> None:
    async def handle(saga: Saga) -> object:
        raise ExceptionGroup("tasks", group)

    port = Port()

    with contextlib.suppress(ExceptionGroup):
        await drive(handle, port)

    assert port.asked == ["turn box.closed", "finish undone"]


async def test_a_group_of_other_errors_that_handle_raises_is_a_bug() -> None:
    async def handle(saga: Saga) -> object:
        raise ExceptionGroup("tasks", [ValueError("boom")])

    with pytest.raises(ExceptionGroup):
        await drive(handle, Port())


async def test_a_step_that_is_not_awaited_is_told() -> None:
    async def handle(saga: Saga) -> object:
        running = asyncio.ensure_future(saga.execute(take("a", 1)))
        await asyncio.sleep(0)
        handle.__dict__["running"] = running
        return NothingCompleted()

    with pytest.raises(UsageError, match="Await each"):
        await drive(handle, Port())
    await handle.__dict__["running"]


async def test_a_call_that_nobody_executed_is_told_before_the_saga_ends_as_completed() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute(take("a", 1))
        put("b", 1)
        return NothingCompleted()

    port = Port()

    with pytest.raises(UsageError, match=r"You want: `await saga\.execute\(put"):
        await drive(handle, port)

    assert port.asked == ["1 cast.take"]


async def test_a_mistake_that_handle_swallows_is_told_all_the_same() -> None:
    async def handle(saga: Saga) -> object:
        await asyncio.gather(saga.execute(take("a", 1)), saga.execute(put("a", 1)), return_exceptions=True)
        return NothingCompleted()

    with pytest.raises(UsageError, match="parallel=True"):
        await drive(handle, Port())


async def test_the_first_steps_at_once_let_one_go_ahead_and_only_that_one_carries_the_envelope() -> None:
    carried: list[bool] = []

    class Counts(Port):
        async def run(self, command: StepCommand, deadline: timedelta) -> StepReply:
            carried.append(command.opening is not None)
            return await super().run(command, deadline)

    async def handle(saga: Saga) -> object:
        await saga.execute_all([take("a", 1) for _ in range(5)], parallel=True)
        return NothingCompleted()

    await drive(handle, Counts())

    assert carried == [True, False, False, False, False]


async def test_steps_at_once_go_out_in_groups_of_a_size_that_a_task_can_send() -> None:
    under_way: list[int] = []

    class Counts(Port):
        async def run(self, command: StepCommand, deadline: timedelta) -> StepReply:
            under_way.append(command.number)
            reply = await super().run(command, deadline)
            assert len(under_way) <= 5
            under_way.remove(command.number)
            return reply

    async def handle(saga: Saga) -> object:
        await saga.execute_all([write_note("x" * 240_000) for _ in range(12)], parallel=True)
        return NothingCompleted()

    assert (await drive(handle, Counts())).phase is Phase.COMPLETED


async def test_a_saga_has_a_greatest_number_of_steps() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute_all([take("a", 1) for _ in range(1_001)])
        return NothingCompleted()

    with pytest.raises(UsageError, match="at most 1,000 steps"):
        await drive(handle, Port())


async def test_a_cancel_while_it_is_marked_as_stuck_leaves_it_marked() -> None:
    marking, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Port):
        async def mark_stuck(self, command: MarkStuckCommand) -> None:
            marking.set()
            await go_on.wait()
            await super().mark_stuck(command)

    async def handle(saga: Saga) -> object:
        await saga.execute(send_letter("x"))
        raise Refused("nothing.refused", "no")

    port = Slow(past_pivot=True)
    driving = asyncio.create_task(drive(handle, port))
    await marking.wait()
    driving.cancel()
    await asyncio.sleep(0)
    go_on.set()

    with pytest.raises(SagaStuck):
        await driving
    assert port.asked[-1] == "stuck"


async def test_a_bug_in_handle_undoes_nothing_and_is_raised_as_it_is() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute(take("a", 1))
        raise KeyError("a bug")

    port = Port()

    with pytest.raises(KeyError):
        await drive(handle, port)

    assert port.asked == ["1 cast.take"]


async def test_numbers_of_steps_at_once_are_given_at_the_call() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute_all([take("a", coins) for coins in range(3)], parallel=True)
        await saga.execute(put("a", 1))
        return NothingCompleted()

    port = Port()

    await drive(handle, port)

    assert port.asked == ["1 cast.take", "2 cast.take", "3 cast.take", "4 cast.put", "finish completed"]


async def test_a_cancel_of_the_driving_task_is_undone_to_the_end() -> None:
    port, begun = Port(), asyncio.Event()

    async def handle(saga: Saga) -> object:
        await saga.execute(take("a", 1))
        begun.set()
        await asyncio.Event().wait()
        return NothingCompleted()

    driving = asyncio.create_task(drive(handle, port))
    await begun.wait()
    driving.cancel()

    assert (await driving).phase is Phase.FAILED
    assert port.asked == ["1 cast.take", "turn saga.cancelled", "finish undone"]


async def test_a_cancel_after_the_pivot_goes_on_to_the_end() -> None:
    port, begun = Port(past_pivot=True), asyncio.Event()

    async def handle(saga: Saga) -> object:
        await saga.execute(send_letter("x"))
        if not begun.is_set():
            begun.set()
            await asyncio.Event().wait()
        return NothingCompleted()

    driving = asyncio.create_task(drive(handle, port))
    await begun.wait()
    driving.cancel()

    assert (await driving).phase is Phase.COMPLETED


async def test_a_pivot_that_committed_and_lost_its_reply_for_good_goes_on_to_the_end() -> None:
    class LosesReply(Port):
        async def run(self, command: StepCommand, deadline: timedelta) -> StepReply:
            reply = await super().run(command, deadline)
            if len(self.asked) == 1:
                raise StepFailed("no attempt ended in time")
            return reply

    async def handle(saga: Saga) -> object:
        await saga.execute(send_letter("x"))
        return NothingCompleted()

    port = LosesReply(past_pivot=True)

    assert (await drive(handle, port)).phase is Phase.COMPLETED
    assert port.asked == ["1 cast.send_letter", "turn operation.failed", "1 cast.send_letter", "finish completed"]


async def test_what_cannot_be_done_after_the_pivot_stops_as_stuck() -> None:
    async def handle(saga: Saga) -> object:
        await saga.execute(send_letter("x"))
        raise Refused("nothing.refused", "again and again")

    port = Port(past_pivot=True)

    with pytest.raises(SagaStuck, match="again and again"):
        await drive(handle, port)

    assert port.asked.count("turn nothing.refused") == 2
    assert port.asked[-1] == "stuck"


async def test_ids_and_chance_are_the_same_each_time() -> None:
    seen: list[object] = []

    async def handle(saga: Saga) -> object:
        seen.append((saga.uuid(), saga.uuid(), saga.random.random(), saga.event_id))
        return NothingCompleted()

    await drive(handle, Port())
    await drive(handle, Port())

    assert seen[0] == seen[1]
