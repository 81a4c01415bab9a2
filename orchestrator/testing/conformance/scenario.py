"""The scenario of one cell: starts and stops drivers, and records the outcomes that they returned."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar
from uuid import UUID

from sqlalchemy import select

from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.drive.driver import Driver
from orchestrator.event import DomainEvent
from orchestrator.protocol.commands import STUCK_AFTER, Outcome, Phase
from orchestrator.protocol.messages.envelope import Envelope, saga_id, wrap
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.testing.conformance.databases import PreparedDatabases
from orchestrator.testing.conformance.injection import DriverDied, Gate, InjectedSteps, Injection
from orchestrator.testing.conformance.lock_waits import LockWaits, with_recorded_waits
from orchestrator.testing.conformance.reference import Reference, ReferenceStep, State
from orchestrator.testing.example import EVENT_TIME, Example

R = TypeVar("R")
Ending = Literal["as without a fault", "undone", "either"]

EVENT_ID = "conformance-1"
OTHER_EVENT_ID = "conformance-other"
LATER = timedelta(minutes=7)
"""How long a client waits before it sends an event again."""
TIME_LIMIT = 60.0
"""How many seconds a cell may take."""
_MAX_CANCELS = 50


class FaultDidNotOccur(Exception):
    """The fault did not occur as it should have."""


class CheckFailed(Exception):
    """A check of the kit failed. `problems` has one sentence for each failure."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class Scenario:
    """One fault at one step of an example's saga, on one database.

    Attributes:
        step: the step at which the fault occurs, or None for the end of the saga.
        injections: one for each driver, in the order in which they were created.
        outcomes: the outcomes that drivers of the example's saga returned.
        ending: how the saga must end.
        declared: why the cell proves nothing although every check passed, or None.
        expected: the correct states, each with a description. Set if the saga's phase does not determine the state.
    """

    def __init__(
        self,
        orchestrator: AnyOrchestrator,
        example: Example,
        catalog: Catalog,
        prepared: PreparedDatabases,
        reference: Reference,
        step: ReferenceStep | None,
        *,
        strategies: Mapping[str, Mapping[str, Any]] | None = None,
        property_examples: int = 25,
    ) -> None:
        self.orchestrator = orchestrator
        self.example = example
        self.catalog = catalog
        self.prepared = prepared
        self.database = prepared.database
        self.databases = prepared.databases
        self.strategies = strategies or {}
        self.property_examples = property_examples
        self.reference = reference
        self.step = step
        self.injections: list[Injection] = []
        self.outcomes: list[Outcome] = []
        self.ending: Ending = "as without a fault"
        self.declared: str | None = None
        self.expected: list[tuple[str, State | None]] = []
        self._tasks: dict[asyncio.Task[Any], LockWaits] = {}

    @property
    def number(self) -> int:
        """The step's number; for the end of the saga, one more than the last step's."""
        return self.step.number if self.step else len(self.reference.steps) + 1

    @property
    def work(self) -> str:
        """The name of this step's transaction in points: `step 2`, or `finish` at the end of the saga."""
        return f"step {self.number}" if self.step else "finish"

    @property
    def is_external(self) -> bool:
        """Whether the step is an external call. It holds no transaction open, so no other driver waits for it."""
        return self.step is not None and self.step.kind == "external"

    @property
    def failure_point(self) -> str:
        """The point where a failure leaves no effect: inside the transaction, or before an external call."""
        return f"entering {self.work}" if self.is_external else f"inside {self.work}"

    @property
    def store(self) -> StoreSteps:
        """The store itself, for a command that no driver sends."""
        return StoreSteps(self.databases, self.catalog)

    @property
    def saga_id(self) -> UUID:
        """The id of the example's saga."""
        return saga_id(self.orchestrator.__name__, EVENT_ID)

    def injection(self, name: str = "") -> Injection:
        """Create the injection of another driver."""
        injection = Injection(name or f"driver {len(self.injections) + 1}")
        self.injections.append(injection)
        return injection

    def envelope(
        self, event: DomainEvent | None = None, *, event_id: str = EVENT_ID, time: datetime = EVENT_TIME
    ) -> Envelope:
        """The envelope of the example's event, or of another event."""
        return envelope_of(event or self.example.event, event_id=event_id, time=time)

    def driver(
        self,
        injection: Injection,
        event: DomainEvent | None = None,
        *,
        event_id: str = EVENT_ID,
        time: datetime = EVENT_TIME,
    ) -> Driver:
        """Create a driver that runs in this process and calls the store directly."""
        envelope = self.envelope(event, event_id=event_id, time=time)
        steps = InjectedSteps(self.databases, self.catalog, injection, sent_to(self.example))
        return Driver(self.orchestrator, event or self.example.event, envelope, steps)

    async def drive(self, injection: Injection | None = None, *, time: datetime = EVENT_TIME) -> Outcome:
        """Drive the saga to its outcome."""
        return self._record(await self.driver(injection or self.injection(), time=time).drive())

    async def undo(
        self, injection: Injection | None = None, code: str = "saga.cancelled", ends_as: Any = Phase.CANCELLED
    ) -> Outcome:
        """Undo the saga with a new driver."""
        return self._record(await self.driver(injection or self.injection()).undo(ends_as, code, "by the test kit"))

    def start(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Start a driver as a task, so that several can run concurrently."""
        waits = LockWaits()
        task = asyncio.create_task(with_recorded_waits(waits, work))
        self._tasks[task] = waits
        return task

    async def drive_until_it_dies(self, injection: Injection) -> None:
        """Drive the saga until the injected death of the driver.

        Raises:
            FaultDidNotOccur: the driver returned an outcome.
        """
        try:
            await self.drive(injection)
        except DriverDied:
            return
        raise FaultDidNotOccur(f"{injection.name} should have died, but returned an outcome")

    async def wait_until_paused(self, gate: Gate, task: asyncio.Task[Any]) -> None:
        """Wait until a driver is paused at its gate.

        Raises:
            FaultDidNotOccur: the driver ended before it reached the gate.
        """
        reached = asyncio.ensure_future(gate.reached.wait())
        await asyncio.wait({task, reached}, return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        if not gate.reached.is_set():
            task.result()
            raise FaultDidNotOccur("a driver never reached the point at which it should pause")

    async def wait_until_done_or_blocked(self, task: asyncio.Task[Any]) -> None:
        """Wait until a driver is done or waits for a lock."""
        waits = self._tasks[task]
        while not (task.done() or await self.prepared.has_waiting(waits)):
            await asyncio.wait({task}, timeout=0.003)

    async def wait_until_done_or_queued(self, injection: Injection, task: asyncio.Task[Any]) -> None:
        """Wait until a driver is done, or its saga waits for locks that another saga holds."""
        queued = asyncio.ensure_future(injection.waited_for_locks.wait())
        await asyncio.wait({task, queued}, return_when=asyncio.FIRST_COMPLETED)
        queued.cancel()

    async def drive_to(self, point: str, injection: Injection | None = None) -> tuple[asyncio.Task[Outcome], Gate]:
        """Start a driver and wait until it is paused at a point."""
        return await self._start_and_pause(self.drive, injection or self.injection(), point)

    async def undo_to(self, point: str, injection: Injection | None = None) -> tuple[asyncio.Task[Outcome], Gate]:
        """Start a driver that undoes the saga, and wait until it is paused at a point."""
        return await self._start_and_pause(self.undo, injection or self.injection(), point)

    async def _start_and_pause(
        self, drive: Callable[[Injection], Coroutine[Any, Any, Outcome]], injection: Injection, point: str
    ) -> tuple[asyncio.Task[Outcome], Gate]:
        gate = injection.pause_at(point)
        task = self.start(drive(injection))
        await self.wait_until_paused(gate, task)
        return task, gate

    async def cancel_after_step(self, injection: Injection | None = None) -> asyncio.Task[Outcome]:
        """Start a driver, and cancel it after this step, so that it undoes the saga."""
        task, _ = await self.drive_to(f"after {self.work}", injection)
        task.cancel()
        return task

    async def saga_row(self) -> Any:
        """The saga's row, or None."""
        async with self.database.reading() as connection:
            return (await connection.execute(select(saga).where(saga.c.id == self.saga_id))).one_or_none()

    async def step_row(self, number: int | None = None) -> Any:
        """A step's row, or None; by default the row of this scenario's step."""
        wanted = (saga_step.c.saga_id == self.saga_id, saga_step.c.number == (number or self.number))
        async with self.database.reading() as connection:
            return (await connection.execute(select(saga_step).where(*wanted))).one_or_none()

    def require(self, condition: object, otherwise: str) -> None:
        """Check a sign that the fault occurred.

        Raises:
            FaultDidNotOccur: the condition is false.
        """
        if not condition:
            raise FaultDidNotOccur(otherwise)

    def watch_stuck_step(self, injection: Injection, work: str) -> list[int | None]:
        """Record which step the saga's row marks as stuck when `work` is retried after `STUCK_AFTER` failures."""
        marked: list[int | None] = []

        async def read_mark() -> None:
            if injection.passed.count(f"before {work}") == STUCK_AFTER + 1:
                marked.append((await self.saga_row()).stuck_step)

        injection.act_at(f"before {work}", read_mark, "the stuck step is read")
        return marked

    def require_stuck(self, injection: Injection, point: str, marked: list[int | None]) -> None:
        """Check that `point` failed `STUCK_AFTER` times, and that the saga's row marked this scenario's step as stuck.

        Raises:
            FaultDidNotOccur: the number of failures or the marked step is wrong.
        """
        failures = injection.hits[point]
        self.require(failures == STUCK_AFTER, f"{point} failed {failures} times instead of {STUCK_AFTER}")
        self.require(marked == [self.number], "the saga was not marked as stuck")

    async def stop_drivers(self) -> None:
        """Cancel every driver that still runs."""
        late = [injection.late_attempt for injection in self.injections if injection.late_attempt is not None]
        tasks: set[asyncio.Task[Any]] = {*self._tasks, *late}
        # An undo ignores a cancellation and may wait for another driver's lock, so all are cancelled, repeatedly.
        for _ in range(_MAX_CANCELS):
            for task in tasks:
                task.cancel()
            if not tasks or not (await asyncio.wait(tasks, timeout=0.2))[1]:
                break
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()  # read here, otherwise asyncio logs that it was never retrieved

    async def with_time_limit(self, work: Awaitable[R]) -> R:
        """Await work, within the time limit of a cell.

        Raises:
            FaultDidNotOccur: the work takes longer.
        """
        try:
            async with asyncio.timeout(TIME_LIMIT):
                return await work
        except TimeoutError:
            raise FaultDidNotOccur(f"the scenario did not end within {TIME_LIMIT:g} s") from None

    def _record(self, outcome: Outcome) -> Outcome:
        self.outcomes.append(outcome)
        return outcome


def envelope_of(event: DomainEvent, *, event_id: str, time: datetime = EVENT_TIME) -> Envelope:
    """Wrap an event. Its envelope is the same in every run."""
    return wrap(event, event_id=event_id, source="conformance", time=time)


def sent_to(example: Example) -> list[Envelope]:
    """The envelopes of the events that are sent to an example's saga."""
    return [
        envelope_of(event, event_id=f"conformance-sent-{number}") for number, event in enumerate(example.sent, start=1)
    ]


RunFault = Callable[[Scenario], Awaitable[None]]
