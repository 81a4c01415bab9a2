"""The order in which a partition drives its events, without a server."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, FailureError

from orchestrator.protocol.wave import Carried, CarriedItem, PostponedItem, PostponeReason, WaveCommand, WaveReply
from orchestrator.workflow import partition, partition_queue
from orchestrator.workflow.own_execution import raw_json
from orchestrator.workflow.partition import PartitionExecution


class FakeWorkflow:
    """A stand-in for `temporalio.workflow` with a clock that jumps and waves that return given replies."""

    def __init__(self, *replies: WaveReply | FailureError) -> None:
        self._replies = list(replies)
        self._now: float = 0.0
        self.waves: list[list[str]] = []
        self.continued = ""
        self.cancellation_reason: Callable[[], None] = lambda: None
        self.set_current_details: Callable[[str], None] = lambda _: None

    def time(self) -> float:
        return self._now

    def info(self) -> Any:
        return SimpleNamespace(
            continued_run_id=self.continued,
            first_execution_run_id="first",
            is_continue_as_new_suggested=lambda: False,
            get_current_history_length=lambda: 0,
            get_current_history_size=lambda: 0,
        )

    async def sleep(self, duration: timedelta | float, **_: Any) -> None:
        self._now += duration.total_seconds() if isinstance(duration, timedelta) else duration

    async def wait_condition(self, condition: Callable[[], bool], *, timeout: timedelta | None) -> None:
        if timeout is None:
            while not condition():  # noqa: ASYNC110 - a workflow's loop also checks after each task
                await asyncio.sleep(0)
        elif not condition():
            self._now += timeout.total_seconds()
            raise TimeoutError

    async def execute_local_activity(self, _name: str, *, args: Sequence[Any], **_: Any) -> WaveReply:
        command: WaveCommand = args[0]
        raws: list[RawValue] = list(args[1:])
        assert len(raws) == len(command.items)
        self.waves.append([raw.payload.data.decode() for raw in raws])
        reply = self._replies.pop(0) if self._replies else WaveReply()
        if isinstance(reply, FailureError):
            raise reply
        return reply

    async def run(self, execution: PartitionExecution, *arguments: RawValue) -> list[str]:
        """Run the partition; returns the events in the order in which they were settled."""
        failed = sum(isinstance(reply, FailureError) for reply in self._replies)
        async with asyncio.timeout(10):
            await execution.take_all(arguments)
        return [event for wave in self.waves[failed:] for event in wave]


def events(*names: str) -> list[RawValue]:
    return [raw_json(name.encode()) for name in names]


async def test_later_events_do_not_overtake_a_wave_that_failed_as_a_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeWorkflow(*[ApplicationError("the database is away")] * 3)
    monkeypatch.setattr(partition, "workflow", fake)
    monkeypatch.setattr(partition_queue, "workflow", fake)
    names = [f"{number:03}" for number in range(120)]
    execution = PartitionExecution()
    execution.receive("event", events(*names))

    assert await fake.run(execution) == names


async def test_carried_events_stay_before_events_that_arrive_before_the_first_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeWorkflow(ApplicationError("the database is away"))
    fake.continued = "the run before"
    monkeypatch.setattr(partition, "workflow", fake)
    monkeypatch.setattr(partition_queue, "workflow", fake)
    execution = PartitionExecution()
    execution.receive("event", events("third", "fourth"))
    carried = Carried(carried=(CarriedItem(source="event"), CarriedItem(source="event")))

    settled = await fake.run(execution, raw_json(carried.model_dump_json().encode()), *events("first", "second"))

    assert settled == ["first", "second", "third", "fourth"]


async def test_a_small_event_does_not_overtake_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_queue, "WAVE_BYTES", 10)
    fake = FakeWorkflow(*[ApplicationError("the database is away")] * 4)
    monkeypatch.setattr(partition, "workflow", fake)
    monkeypatch.setattr(partition_queue, "workflow", fake)
    names = ["1-small", "2-is-large-indeed", "3-small", "4"]
    execution = PartitionExecution()
    execution.receive("event", events(*names))

    assert await fake.run(execution) == names


class Opening(FakeWorkflow):
    """A run that must end with more events than it may carry; sagas that it only opens are postponed as unreached."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[int] = []

    def continue_as_new(self, **_: Any) -> NoReturn:
        raise EOFError

    async def execute_local_activity(self, _name: str, *, args: Sequence[Any], **_: Any) -> WaveReply:
        command: WaveCommand = args[0]
        if not command.opens_only:
            return WaveReply()
        self.opened.append(len(command.items))
        left = [
            PostponedItem(index=index, why=PostponeReason.UNREACHED, event_id=f"{index}")
            for index in range(len(command.items))
        ]
        return WaveReply(postponed=tuple(left))


async def test_sagas_that_are_only_opened_are_not_treated_as_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("_CARRIED", "_RUN_SIGNALS", "_FULL_SIGNALS"):
        monkeypatch.setattr(partition, limit, 1)
    fake = Opening()
    monkeypatch.setattr(partition, "workflow", fake)
    monkeypatch.setattr(partition_queue, "workflow", fake)
    execution = PartitionExecution()
    execution.receive("event", events(*(f"{number}" for number in range(200))))

    with pytest.raises(EOFError):
        await fake.run(execution)

    assert fake.opened == [50] * 4


class Waiting(FakeWorkflow):
    """Three sagas that wait for locks until a wake signal arrives while the partition is idle."""

    def __init__(self, execution: PartitionExecution, *signals: str) -> None:
        super().__init__()
        self.execution = execution
        self.signals = signals
        self.is_woken = False

    async def wait_condition(self, condition: Callable[[], bool], *, timeout: timedelta | None) -> None:
        if not self.is_woken:
            self.is_woken = True
            self.execution.receive("wake", events(*self.signals))
        await super().wait_condition(condition, timeout=timeout)

    async def execute_local_activity(self, _name: str, *, args: Sequence[Any], **_: Any) -> WaveReply:
        command: WaveCommand = args[0]
        raws = iter(args[1:])
        ids = [item.event_id or next(raws).payload.data.decode() for item in command.items]
        self.waves.append(ids)
        left = [
            PostponedItem(index=index, why=PostponeReason.BLOCKED, event_id=event_id)
            for index, event_id in enumerate(ids)
        ]
        return WaveReply(postponed=() if self.is_woken else tuple(left))


@pytest.mark.parametrize(
    ("signals", "looked_at"),
    [
        (['"b"'], ["b"]),
        (['"c"', '"a"'], ["a", "c"]),
        ([], ["a", "b", "c"]),
        (['"b"', "[1]"], ["a", "b", "c"]),
        (["[" * 100_000], ["a", "b", "c"]),
    ],
    ids=["one", "two", "nothing", "something else", "deep nesting"],
)
async def test_a_wake_signal_drives_the_sagas_that_it_names(
    monkeypatch: pytest.MonkeyPatch, signals: list[str], looked_at: list[str]
) -> None:
    execution = PartitionExecution()
    fake = Waiting(execution, *signals)
    monkeypatch.setattr(partition, "workflow", fake)
    monkeypatch.setattr(partition_queue, "workflow", fake)
    monkeypatch.setattr(partition, "IDLE", timedelta(0))
    execution.receive("event", events("a", "b", "c"))

    settled = await fake.run(execution)

    assert fake.waves[1] == looked_at
    assert sorted(settled[3:]) == ["a", "b", "c"]
