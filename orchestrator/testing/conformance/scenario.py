"""The stage: what the play of one cell has in hand. It starts drivers, stops them, and knows what they were told."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar
from uuid import UUID

from sqlalchemy import select

from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.drive.driver import Driver
from orchestrator.event import DomainEvent
from orchestrator.protocol.commands import Outcome, Phase
from orchestrator.protocol.envelope import Envelope, saga_id, wrap
from orchestrator.store.core.schema import saga, saga_step
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.testing.conformance.databases import Ground
from orchestrator.testing.conformance.injection import Gate, Gone, InjectedSteps, Injection
from orchestrator.testing.conformance.lock_waits import LockWaits, recorded
from orchestrator.testing.conformance.reference import PlayedStep, Reference
from orchestrator.testing.conformance.state import State
from orchestrator.testing.example import EVENT_TIME, Example

R = TypeVar("R")
Ending = Literal["as if nothing happened", "taken back", "either"]

EVENT_ID = "conformance-1"
OTHER_EVENT_ID = "conformance-other"
LATER = timedelta(minutes=7)
"""How much later a client sends an event again."""
SECONDS = 60.0
"""How long a cell may take."""
_CANCELS = 50


class Missed(Exception):
    """The fault did not occur as it should have."""


class Wrong(Exception):
    """Something is not as it must be."""

    def __init__(self, found: Sequence[str]) -> None:
        self.found = tuple(found)
        super().__init__("\n".join(found))


class Stage:
    """One cell's play.

    Attributes:
        step: where the fault is to occur; None at the end of the saga.
        injections: of every driver, in order.
        outcomes: what drivers of the example's saga were told.
        ending: how the saga must have ended.
        declared: why nothing was proved, although everything is as it must be.
        expected: states that are right, each with its words, where the saga's phase alone does not say.
    """

    def __init__(
        self,
        orchestrator: AnyOrchestrator,
        example: Example,
        catalog: Catalog,
        ground: Ground,
        reference: Reference,
        step: PlayedStep | None,
        *,
        strategies: Mapping[str, Mapping[str, Any]] | None = None,
        property_examples: int = 25,
    ) -> None:
        self.orchestrator = orchestrator
        self.example = example
        self.catalog = catalog
        self.ground = ground
        self.database = ground.database
        self.databases = ground.databases
        self.strategies = strategies or {}
        self.property_examples = property_examples
        self.reference = reference
        self.step = step
        self.injections: list[Injection] = []
        self.outcomes: list[Outcome] = []
        self.ending: Ending = "as if nothing happened"
        self.declared: str | None = None
        self.expected: list[tuple[str, State | None]] = []
        self._tasks: dict[asyncio.Task[Any], LockWaits] = {}

    @property
    def number(self) -> int:
        """The step's number; at the end, one more than the last."""
        return self.step.number if self.step else len(self.reference.steps) + 1

    @property
    def here(self) -> str:
        """The work at this place, as points name it."""
        return f"step {self.number}" if self.step else "finish"

    @property
    def is_outside(self) -> bool:
        """Whether the step takes part in no transaction, so that nobody waits for it."""
        return self.step is not None and self.step.kind == "external"

    @property
    def failing(self) -> str:
        """Where a step fails so that its effect does not stand: inside its transaction, or before a call outside."""
        return f"entering {self.here}" if self.is_outside else f"inside {self.here}"

    @property
    def store(self) -> StoreSteps:
        """The store itself, for a message that comes past every driver."""
        return StoreSteps(self.databases, self.catalog)

    @property
    def saga_id(self) -> UUID:
        """Of the example's saga."""
        return saga_id(self.orchestrator.__name__, EVENT_ID)

    def injection(self, name: str = "") -> Injection:
        """For one driver more."""
        made = Injection(name or f"driver {len(self.injections) + 1}")
        self.injections.append(made)
        return made

    def envelope(
        self, event: DomainEvent | None = None, *, event_id: str = EVENT_ID, time: datetime = EVENT_TIME
    ) -> Envelope:
        """The example's event, or another."""
        return envelope_of(event or self.example.event, event_id=event_id, time=time)

    def driver(
        self,
        injection: Injection,
        event: DomainEvent | None = None,
        *,
        event_id: str = EVENT_ID,
        time: datetime = EVENT_TIME,
    ) -> Driver:
        """A driver that runs in this process, straight on the database."""
        envelope = self.envelope(event, event_id=event_id, time=time)
        steps = InjectedSteps(self.databases, self.catalog, injection, sent_to(self.example))
        return Driver(self.orchestrator, event or self.example.event, envelope, steps)

    async def drive(self, injection: Injection | None = None, *, time: datetime = EVENT_TIME) -> Outcome:
        """Drive the saga to its outcome."""
        return self._heard(await self.driver(injection or self.injection(), time=time).drive())

    async def undo(
        self, injection: Injection | None = None, code: str = "saga.cancelled", ends_as: Any = Phase.CANCELLED
    ) -> Outcome:
        """Undo the saga by a driver that does nothing else."""
        return self._heard(await self.driver(injection or self.injection()).undo(ends_as, code, "by the test kit"))

    def start(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Let a driver go while others do, too."""
        waits = LockWaits()
        task = asyncio.create_task(recorded(waits, work))
        self._tasks[task] = waits
        return task

    async def dies(self, injection: Injection) -> None:
        """Drive until the driver is no more.

        Raises:
            Missed: it came to an outcome.
        """
        try:
            await self.drive(injection)
        except Gone:
            return
        raise Missed(f"{injection.name} should have died and came to an outcome")

    async def until_stopped(self, gate: Gate, task: asyncio.Task[Any]) -> None:
        """Wait until a driver stands at its gate.

        Raises:
            Missed: it ended before it came there.
        """
        reached = asyncio.ensure_future(gate.reached.wait())
        await asyncio.wait({task, reached}, return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        if not gate.reached.is_set():
            task.result()
            raise Missed("a driver never came to the point at which it should stand still")

    async def until_still(self, task: asyncio.Task[Any]) -> None:
        """Wait until a driver is done or waits for a lock; a parallel step of another driver may wait for one, too."""
        waits = self._tasks[task]
        while not (task.done() or await self.ground.has_waiting(waits)):
            await asyncio.wait({task}, timeout=0.003)

    async def until_done_or_in_line(self, injection: Injection, task: asyncio.Task[Any]) -> None:
        """Wait until a driver is done, or its saga stands in line for locks that another saga holds."""
        in_line = asyncio.ensure_future(injection.in_line.wait())
        await asyncio.wait({task, in_line}, return_when=asyncio.FIRST_COMPLETED)
        in_line.cancel()

    async def stopped_at(self, point: str, injection: Injection | None = None) -> tuple[asyncio.Task[Outcome], Gate]:
        """A driver that goes forward and stands still at a point."""
        one = injection or self.injection()
        gate = one.stops(point)
        task = self.start(self.drive(one))
        await self.until_stopped(gate, task)
        return task, gate

    async def turned_back(self, injection: Injection | None = None) -> asyncio.Task[Outcome]:
        """A driver that is cancelled once this step is done, and now undoes it."""
        task, _ = await self.stopped_at(f"after {self.here}", injection)
        task.cancel()
        return task

    async def saga_row(self) -> Any:
        """The saga's row, if there is one."""
        async with self.database.reading() as connection:
            return (await connection.execute(select(saga).where(saga.c.id == self.saga_id))).one_or_none()

    async def step_row(self, number: int | None = None) -> Any:
        """A step's row, if there is one: this step's."""
        wanted = (saga_step.c.saga_id == self.saga_id, saga_step.c.number == (number or self.number))
        async with self.database.reading() as connection:
            return (await connection.execute(select(saga_step).where(*wanted))).one_or_none()

    def must(self, condition: object, otherwise: str) -> None:
        """Make sure that the fault occurred.

        Raises:
            Missed: it did not.
        """
        if not condition:
            raise Missed(otherwise)

    async def leave(self) -> None:
        """End whoever still drives."""
        late = [injection.late for injection in self.injections if injection.late is not None]
        left: set[asyncio.Task[Any]] = {*self._tasks, *late}
        # Undoing is not interrupted, and may wait for another one's lock: so all of them at once, and again.
        for _ in range(_CANCELS):
            for task in left:
                task.cancel()
            if not left or not (await asyncio.wait(left, timeout=0.2))[1]:
                break
        for task in left:
            if task.done() and not task.cancelled():
                task.exception()  # heard, so that it is not told as never retrieved

    async def within(self, work: Awaitable[R]) -> R:
        """Await work, but not for ever.

        Raises:
            Missed: it takes longer than a cell may.
        """
        try:
            async with asyncio.timeout(SECONDS):
                return await work
        except TimeoutError:
            raise Missed(f"it did not end within {SECONDS:g} s") from None

    def _heard(self, outcome: Outcome) -> Outcome:
        self.outcomes.append(outcome)
        return outcome


def envelope_of(event: DomainEvent, *, event_id: str, time: datetime = EVENT_TIME) -> Envelope:
    """An event as the kit sends it: the same in every run."""
    return wrap(event, event_id=event_id, source="conformance", time=time)


def sent_to(example: Example) -> list[Envelope]:
    """The events that are sent to an example's saga."""
    return [
        envelope_of(event, event_id=f"conformance-sent-{number}") for number, event in enumerate(example.sent, start=1)
    ]


Play = Callable[[Stage], Awaitable[None]]
