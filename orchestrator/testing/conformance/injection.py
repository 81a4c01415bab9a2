"""Injection: faults at points of one driver's way, without touching what an author wrote.

A point is `before`, `inside` or `after` one of a driver's transactions, as in `inside step 2`, `after undo 1`,
`before finish`; an operation has `entering`, too, when it is about to begin. *Inside* means that the effect is written
and not committed: operations in a catalog of the kit's own are copies that come to a point there. Who is driving
travels in a context variable.
"""

import asyncio
import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any, TypeVar

from orchestrator.definition.atomic import names_in
from orchestrator.definition.catalog import Catalog
from orchestrator.drive.steps import StepFailed
from orchestrator.errors import AuthorsMistake
from orchestrator.event import DomainEvent
from orchestrator.external import ExternalCall, ExternalOperation
from orchestrator.operation import Operation, Reversal
from orchestrator.protocol.commands import (
    STUCK_AFTER,
    BeginUndoCommand,
    BeginUndoReply,
    Blocked,
    EndWaitCommand,
    FinishCommand,
    FinishReply,
    MarkStuckCommand,
    StepCommand,
    StepDone,
    StepReply,
    UndoCommand,
    UndoReply,
    WaitCommand,
    WaitReply,
)
from orchestrator.protocol.envelope import Envelope
from orchestrator.protocol.unwrapping import unwrap
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.transaction import Transaction

R = TypeVar("R")
Act = Callable[[], Awaitable[None]]

ATTEMPTS = 3
"""Attempts of a step before it has failed for good."""
INSISTED = 12
"""Attempts of what is tried without end in the world. Here it ends, so that a test does."""


class Injected(Exception):
    """An error that is no refusal, raised by the kit."""


class ReplyLost(Exception):
    """The transaction is committed and its answer came to nobody."""


class Gone(BaseException):
    """The driver is no more: what it did stands or falls with its transactions, and it says nothing further."""


class NeverDone(Exception):
    """What must be done in the end was tried again and again and failed each time."""


class Gate:
    """A point at which a driver stands still until it is let go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.opened.wait()


class Injection:
    """What happens to one driver, by point.

    Attributes:
        name: of the driver, for stories.
        hits: how often each act took place.
        passed: points in the order in which they were come to.
        commands: the latest command of each step, to send it again.
        replies: the latest reply of each step.
        keys: idempotency keys of calls to the outside, each with the work that it was for.
        late: the attempt that its driver no longer waits for.
        in_line: set once the driver has waited for another saga's locks.
        told: what is injected, a line each.
    """

    def __init__(self, name: str = "the driver") -> None:
        self.name = name
        self.hits: Counter[str] = Counter()
        self.passed: list[str] = []
        self.commands: dict[int, StepCommand] = {}
        self.replies: dict[int, StepReply] = {}
        self.keys: list[tuple[str, str]] = []
        self.late: asyncio.Task[StepReply] | None = None
        self.in_line = asyncio.Event()
        self._acts: dict[str, Act] = {}
        self._given_up: tuple[str, Gate] | None = None
        self._answers: dict[int, StepReply] = {}
        self.told: list[str] = []

    def act(self, point: str, act: Act, told: str, *, times: int | None = None) -> None:
        """Have something happen at a point: the first times that it is come to, or always."""
        self.told.append(f"{point}: {told}")

        async def acting() -> None:
            if times is None or self.hits[point] < times:
                self.hits[point] += 1
                await act()

        self._acts[point] = acting

    def raises(self, point: str, fault: BaseException, *, times: int | None = 1) -> None:
        """Have an error raised at a point."""

        async def act() -> None:
            raise fault

        often = "always" if times is None else "once" if times == 1 else f"{times} times"
        self.act(point, act, f"{type(fault).__name__}, {often}", times=times)

    def stops(self, point: str) -> Gate:
        """Have the driver stand still at a point, once."""
        gate = Gate()
        self.act(point, gate, "stands still", times=1)
        return gate

    def gives_up(self, step: int) -> Gate:
        """Have a step's attempt stand still inside while its driver takes it for failed."""
        gate = self.stops(f"inside step {step}")
        self._given_up = (f"step {step}", gate)
        return gate

    def answers(self, replies: dict[int, StepReply]) -> None:
        """Have these steps answered from memory: an execution that was reset remembers what came before."""
        self._answers = dict(replies)

    async def at(self, point: str) -> None:
        """The driver has come to a point."""
        self.passed.append(point)
        if point in self._acts:
            await self._acts[point]()

    def given_up(self, work: str) -> Gate | None:
        """Where a step's attempt stands still, if it is not waited for."""
        if self._given_up is None or self._given_up[0] != work or self.late is not None:
            return None
        return self._given_up[1]

    def remembered(self, number: int) -> StepReply | None:
        """A reply from memory."""
        return self._answers.get(number)


@dataclass
class _Work:
    """What a driver is at. An atomic step's calls are one work: entered by the first, written by the last."""

    injection: Injection
    name: str
    calls: int
    begun: int = 0
    written: int = 0


_driving: ContextVar[_Work | None] = ContextVar("driving", default=None)


async def come_in(tx: object) -> None:
    """Called by the copies before an operation begins."""
    work = _driving.get()
    if work is not None:
        if isinstance(tx, ExternalCall):
            work.injection.keys.append((work.name, tx.idempotency_key))
        work.begun += 1
        if work.begun % work.calls == 1 % work.calls:
            await work.injection.at(f"entering {work.name}")


async def come_inside(tx: object) -> None:
    """Called by the copies when the effect is written: flush it, then come to the point inside."""
    work = _driving.get()
    if work is None:
        return
    if isinstance(tx, Transaction):
        await tx.flush()
    work.written += 1
    if work.written % work.calls == 0:
        await work.injection.at(f"inside {work.name}")


class InjectedSteps(StoreSteps):
    """The store's port with points around each transaction, and retries like the real one, only without waits."""

    def __init__(
        self, databases: Database | Databases, catalog: Catalog, injection: Injection, sent: Sequence[Envelope] = ()
    ) -> None:
        super().__init__(databases, catalog)
        self.injection = injection
        self._sent = list(sent)
        self._calls: dict[str, int] = {}

    async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
        """A step: a few attempts at once, then it has failed.

        Raises:
            StepFailed: it has.
        """
        number, injection = command.number, self.injection
        remembered = injection.remembered(number)
        if remembered is not None:
            return remembered
        injection.commands[number] = command
        self._calls[f"step {number}"] = len(names_in(command.operation, command.arguments))
        if command.past_pivot:
            return await self._insist_on_step(command, deadline)
        for number_of_attempt in range(attempt, ATTEMPTS + 1):
            try:
                reply = await self._attempt(command, deadline, number_of_attempt)
            except StepFailed:
                raise
            except Exception as fault:
                if number_of_attempt < ATTEMPTS and not isinstance(fault, AuthorsMistake):
                    continue
                settled = await self.settle(command) if self._leaves_a_doubt(command) else None
                if settled is None:
                    raise _failed(command, fault) from fault
                reply = settled
            injection.replies[number] = reply
            return reply
        raise AssertionError("unreachable")

    async def wait_for_locks(self, blocked: Blocked) -> None:
        """As the store's port, and it shows."""
        self.injection.in_line.set()
        await super().wait_for_locks(blocked)

    def _leaves_a_doubt(self, command: StepCommand) -> bool:
        """Whether a step that is given up may have happened, and could not be undone then."""
        operation = self.catalog.operation(command.operation)
        return isinstance(operation, ExternalOperation) and operation.reversal is Reversal.IRREVERSIBLE

    async def _insist_on_step(self, command: StepCommand, deadline: timedelta) -> StepReply:
        """Past the pivot a step is tried without end, and shows as stuck after a while."""
        failures = 0

        async def once() -> StepReply:
            nonlocal failures
            try:
                return await StoreSteps.run(self, command, deadline, attempt=failures + 1)
            except Exception as fault:
                failures += 1
                if failures == STUCK_AFTER:
                    error = f"{type(fault).__name__}: {fault}"
                    await self.mark_stuck(
                        MarkStuckCommand(saga=command.saga, number=command.number, error=error, step=command)
                    )
                raise

        reply = await self._insist(f"step {command.number}", once)
        if failures >= STUCK_AFTER:
            await self.mark_stuck(MarkStuckCommand(saga=command.saga, number=command.number, error=None))
        self.injection.replies[command.number] = reply
        return reply

    async def _attempt(self, command: StepCommand, deadline: timedelta, attempt: int) -> StepReply:
        work = f"step {command.number}"

        async def once() -> StepReply:
            return await StoreSteps.run(self, command, deadline, attempt=attempt)

        attempting = self._pointed(work, once)
        gate = self.injection.given_up(work)  # once: sent again, it is waited for
        if gate is None:
            return await attempting
        late = self.injection.late = asyncio.ensure_future(attempting)
        await asyncio.wait({late, asyncio.ensure_future(gate.reached.wait())}, return_when=asyncio.FIRST_COMPLETED)
        raise StepFailed(f"{work}, {command.operation}: no attempt ended in time")

    async def begin_wait(self, command: WaitCommand) -> WaitReply:
        """A sleep or a wait begins, insisted on."""
        remembered = self.injection.remembered(command.number)
        if isinstance(remembered, StepDone):
            return remembered
        await self.injection.at(f"before step {command.number}")
        return await self._insist(f"wait {command.number}", lambda: StoreSteps.begin_wait(self, command))

    async def end_wait(self, command: EndWaitCommand) -> StepReply:
        """A sleep or a wait ends, insisted on."""
        reply = await self._insist(f"wait's end {command.number}", lambda: StoreSteps.end_wait(self, command))
        self.injection.replies[command.number] = reply
        await self.injection.at(f"after step {command.number}")
        return reply

    async def pause(self, number: int, seconds: float) -> None:
        """Time has passed."""

    async def receive(
        self, number: int, event: type[DomainEvent], matching: Callable[[Any], bool], seconds: float
    ) -> Envelope | None:
        """The first event that was sent and matches; None at once if there is none."""
        for envelope in self._sent:
            if envelope.event_type == event.type_name() and matching(unwrap(envelope, event)):
                return envelope
        return None

    def received(self, envelope: Envelope, event: DomainEvent) -> None:
        """It is not taken again."""
        self._sent = [one for one in self._sent if one.event_id != envelope.event_id]

    async def begin_undo(self, command: BeginUndoCommand) -> BeginUndoReply:
        """A turn, insisted on."""
        return await self._insist("turn", lambda: StoreSteps.begin_undo(self, command))

    async def undo(self, command: UndoCommand, compensation: str) -> UndoReply:
        """An undoing, insisted on."""
        undone = [name for name in command.calls if self.catalog.compensation_of(name)]
        self._calls[f"undo {command.number}"] = len(undone) or 1
        return await self._insist(f"undo {command.number}", lambda: StoreSteps.undo(self, command, compensation))

    async def finish(self, command: FinishCommand) -> FinishReply:
        """A finish, insisted on."""
        return await self._insist("finish", lambda: StoreSteps.finish(self, command))

    async def _insist(self, work: str, attempt: Callable[[], Awaitable[R]]) -> R:
        for _ in range(INSISTED - 1):
            try:
                return await self._pointed(work, attempt)
            except Exception:  # noqa: S112 - whatever it is, it is tried again
                continue
        try:
            return await self._pointed(work, attempt)
        except Exception as fault:
            raise NeverDone(f"{work} failed {INSISTED} times, at last with {type(fault).__name__}: {fault}") from fault

    async def _pointed(self, work: str, attempt: Callable[[], Awaitable[R]]) -> R:
        await self.injection.at(f"before {work}")
        token = _driving.set(_Work(self.injection, work, self._calls.get(work, 1)))
        try:
            reply = await attempt()
        finally:
            _driving.reset(token)
        await self.injection.at(f"after {work}")
        return reply


def instrumented(catalog: Catalog) -> Catalog:
    """The same catalog with copies of its operations, which come to a point when their effect is written."""
    copies = {name: _copied(operation) for name, operation in catalog.operations.items()}
    return replace(catalog, operations=MappingProxyType(copies))


def _copied(operation: Operation[..., Any]) -> Operation[..., Any]:
    undo = operation.undo
    return replace(
        operation,
        _body=_pointing(operation._body),  # pyright: ignore[reportPrivateUsage]
        undo=None if undo is None else replace(undo, body=_pointing(undo.body)),
    )


def _pointing(body: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(body)
    async def pointing(tx: Any, /, *arguments: Any, **named: Any) -> Any:
        await come_in(tx)
        result = await body(tx, *arguments, **named)
        await come_inside(tx)
        return result

    return pointing


def _failed(command: StepCommand, fault: Exception) -> StepFailed:
    return StepFailed(f"step {command.number}, {command.operation}: {type(fault).__name__}: {fault}")
