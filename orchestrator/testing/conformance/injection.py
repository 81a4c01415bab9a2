"""Injects faults at named points of a driver's run, without changing the author's code.

A point is `before`, `inside` or `after` one of a driver's transactions, for example `inside step 2`, `after undo 1` or
`before finish`. An operation also has the point `entering`, just before its body runs. *Inside* means that the effect
is written but not committed: the kit runs copies of the operations, and each copy reaches that point after its body.
A context variable holds the injection of the current driver.
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
from orchestrator.protocol.messages.envelope import Envelope
from orchestrator.protocol.messages.unwrapping import unwrap
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.transaction import Transaction

R = TypeVar("R")
Action = Callable[[], Awaitable[None]]

ATTEMPTS = 3
"""How often a step is attempted before it counts as failed."""
RETRY_LIMIT = 12
"""How often the kit attempts work that an application retries without limit. The limit ensures that a test ends."""


class Injected(Exception):
    """An error other than a refusal, raised by the kit."""


class ReplyLost(Exception):
    """The transaction is committed, but its reply did not reach the driver."""


class DriverDied(BaseException):
    """The driver has died: only what it committed remains, and it does nothing more."""


class NeverSucceeded(Exception):
    """Work that is retried until it succeeds failed at each of `RETRY_LIMIT` attempts."""


class Gate:
    """Pauses a driver at a point until the gate is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.opened.wait()


class Injection:
    """The faults of one driver, and a record of what it did.

    Attributes:
        name: the driver's name in reports.
        hits: how often an action ran, by point.
        passed: every point that the driver reached, in order.
        commands: the latest command of each step, so that a fault can send it again.
        replies: the latest reply of each step.
        keys: idempotency keys of external calls, each after the name of the work that made the call.
        late_attempt: the attempt that the driver has abandoned, which still runs.
        waited_for_locks: set once the driver waits for another saga's locks.
        descriptions: one line for each fault that is injected.
    """

    def __init__(self, name: str = "the driver") -> None:
        self.name = name
        self.hits: Counter[str] = Counter()
        self.passed: list[str] = []
        self.commands: dict[int, StepCommand] = {}
        self.replies: dict[int, StepReply] = {}
        self.keys: list[tuple[str, str]] = []
        self.late_attempt: asyncio.Task[StepReply] | None = None
        self.waited_for_locks = asyncio.Event()
        self._actions: dict[str, Action] = {}
        self._abandoned: tuple[str, Gate] | None = None
        self._replayed: dict[int, StepReply] = {}
        self.descriptions: list[str] = []

    def act_at(self, point: str, action: Action, description: str, *, times: int | None = None) -> None:
        """Run an action when the driver reaches a point: always, or only the first times."""
        self.descriptions.append(f"{point}: {description}")

        async def counted() -> None:
            if times is None or self.hits[point] < times:
                self.hits[point] += 1
                await action()

        self._actions[point] = counted

    def raise_at(self, point: str, fault: BaseException, *, times: int | None = 1) -> None:
        """Raise an error when the driver reaches a point."""

        async def action() -> None:
            raise fault

        often = "always" if times is None else "once" if times == 1 else f"{times} times"
        self.act_at(point, action, f"{type(fault).__name__}, {often}", times=times)

    def pause_at(self, point: str) -> Gate:
        """Pause the driver at a point, once."""
        gate = Gate()
        self.act_at(point, gate, "paused", times=1)
        return gate

    def abandon_attempt(self, step: int) -> Gate:
        """Pause a step's attempt inside its transaction, and let its driver count it as failed."""
        gate = self.pause_at(f"inside step {step}")
        self._abandoned = (f"step {step}", gate)
        return gate

    def replay(self, replies: dict[int, StepReply]) -> None:
        """Answer these steps from memory, as Temporal does for an execution that was reset."""
        self._replayed = dict(replies)

    async def reach(self, point: str) -> None:
        """Record that the driver has reached a point, and run the point's action."""
        self.passed.append(point)
        if point in self._actions:
            await self._actions[point]()

    def abandon_gate(self, work: str) -> Gate | None:
        """The gate of this work's next attempt, if that is the attempt to abandon."""
        if self._abandoned is None or self._abandoned[0] != work or self.late_attempt is not None:
            return None
        return self._abandoned[1]

    def replayed_reply(self, number: int) -> StepReply | None:
        """The remembered reply with which a step is answered, or None."""
        return self._replayed.get(number)


@dataclass
class _Work:
    """The transaction that a driver runs. An atomic step enters it with its first call and ends it with its last."""

    injection: Injection
    name: str
    calls: int
    begun: int = 0
    written: int = 0


_driving: ContextVar[_Work | None] = ContextVar("driving", default=None)


async def reach_entry(tx: object) -> None:
    """Reach the point `entering`. The copies of operations call it before the body."""
    work = _driving.get()
    if work is not None:
        if isinstance(tx, ExternalCall):
            work.injection.keys.append((work.name, tx.idempotency_key))
        work.begun += 1
        if work.begun % work.calls == 1 % work.calls:
            await work.injection.reach(f"entering {work.name}")


async def reach_inside(tx: object) -> None:
    """Flush the effect and reach the point `inside`. The copies of operations call it after the body."""
    work = _driving.get()
    if work is None:
        return
    if isinstance(tx, Transaction):
        await tx.flush()
    work.written += 1
    if work.written % work.calls == 0:
        await work.injection.reach(f"inside {work.name}")


class InjectedSteps(StoreSteps):
    """The store's steps, with a point before and after each transaction, and with retries that do not wait."""

    def __init__(
        self, databases: Database | Databases, catalog: Catalog, injection: Injection, sent: Sequence[Envelope] = ()
    ) -> None:
        super().__init__(databases, catalog)
        self.injection = injection
        self._sent = list(sent)
        self._calls: dict[str, int] = {}

    async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
        """Run a step, with up to `ATTEMPTS` attempts.

        Raises:
            StepFailed: every attempt failed.
        """
        number, injection = command.number, self.injection
        reply_from_memory = injection.replayed_reply(number)
        if reply_from_memory is not None:
            return reply_from_memory
        injection.commands[number] = command
        self._calls[f"step {number}"] = len(names_in(command.operation, command.arguments))
        if command.past_pivot:
            return await self._retry_step_until_done(command, deadline)
        for current in range(attempt, ATTEMPTS + 1):
            try:
                reply = await self._attempt(command, deadline, current)
            except StepFailed:
                raise
            except Exception as fault:
                if current < ATTEMPTS and not isinstance(fault, AuthorsMistake):
                    continue
                settled = await self.settle(command) if self._may_be_final(command) else None
                if settled is None:
                    raise _failed(command, fault) from fault
                reply = settled
            injection.replies[number] = reply
            return reply
        raise AssertionError("unreachable")

    async def wait_for_locks(self, blocked: Blocked) -> None:
        """Wait as the store does, and record that the driver waits."""
        self.injection.waited_for_locks.set()
        await super().wait_for_locks(blocked)

    def _may_be_final(self, command: StepCommand) -> bool:
        """Whether a step that failed may nevertheless have happened, in which case it could not be undone."""
        operation = self.catalog.operation(command.operation)
        return isinstance(operation, ExternalOperation) and operation.reversal is Reversal.IRREVERSIBLE

    async def _retry_step_until_done(self, command: StepCommand, deadline: timedelta) -> StepReply:
        """Retry a step past the pivot until it succeeds; after `STUCK_AFTER` failures, mark the saga as stuck."""
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

        reply = await self._retry_until_done(f"step {command.number}", once)
        if failures >= STUCK_AFTER:
            await self.mark_stuck(MarkStuckCommand(saga=command.saga, number=command.number, error=None))
        self.injection.replies[command.number] = reply
        return reply

    async def _attempt(self, command: StepCommand, deadline: timedelta, attempt: int) -> StepReply:
        work = f"step {command.number}"

        async def once() -> StepReply:
            return await StoreSteps.run(self, command, deadline, attempt=attempt)

        attempting = self._with_points(work, once)
        gate = self.injection.abandon_gate(work)  # only one attempt is abandoned; the driver waits for the next one
        if gate is None:
            return await attempting
        late = self.injection.late_attempt = asyncio.ensure_future(attempting)
        await asyncio.wait({late, asyncio.ensure_future(gate.reached.wait())}, return_when=asyncio.FIRST_COMPLETED)
        raise StepFailed(f"{work}, {command.operation}: no attempt ended in time")

    async def begin_wait(self, command: WaitCommand) -> WaitReply:
        """Begin a sleep or a wait, and retry until that succeeds."""
        reply_from_memory = self.injection.replayed_reply(command.number)
        if isinstance(reply_from_memory, StepDone):
            return reply_from_memory
        await self.injection.reach(f"before step {command.number}")
        return await self._retry_until_done(f"wait {command.number}", lambda: StoreSteps.begin_wait(self, command))

    async def end_wait(self, command: EndWaitCommand) -> StepReply:
        """End a sleep or a wait, and retry until that succeeds."""
        work = f"end of wait {command.number}"
        reply = await self._retry_until_done(work, lambda: StoreSteps.end_wait(self, command))
        self.injection.replies[command.number] = reply
        await self.injection.reach(f"after step {command.number}")
        return reply

    async def pause(self, number: int, seconds: float) -> None:
        """Return immediately, as if the time had passed."""

    async def receive(
        self, number: int, event: type[DomainEvent], matching: Callable[[Any], bool], seconds: float
    ) -> Envelope | None:
        """Return the first sent event that matches, or None immediately if there is none."""
        for envelope in self._sent:
            if envelope.event_type == event.type_name() and matching(unwrap(envelope, event)):
                return envelope
        return None

    def received(self, envelope: Envelope, event: DomainEvent) -> None:
        """Remove an event, so that it is not received a second time."""
        self._sent = [sent for sent in self._sent if sent.event_id != envelope.event_id]

    async def begin_undo(self, command: BeginUndoCommand) -> BeginUndoReply:
        """Begin the undo, and retry until that succeeds."""
        return await self._retry_until_done("begin undo", lambda: StoreSteps.begin_undo(self, command))

    async def undo(self, command: UndoCommand, compensation: str) -> UndoReply:
        """Undo a step, and retry until that succeeds."""
        compensated = [name for name in command.calls if self.catalog.compensation_of(name)]
        self._calls[f"undo {command.number}"] = len(compensated) or 1
        return await self._retry_until_done(
            f"undo {command.number}", lambda: StoreSteps.undo(self, command, compensation)
        )

    async def finish(self, command: FinishCommand) -> FinishReply:
        """Finish the saga, and retry until that succeeds."""
        return await self._retry_until_done("finish", lambda: StoreSteps.finish(self, command))

    async def _retry_until_done(self, work: str, attempt: Callable[[], Awaitable[R]]) -> R:
        for _ in range(RETRY_LIMIT - 1):
            try:
                return await self._with_points(work, attempt)
            except Exception:  # noqa: S112 - every error is retried
                continue
        try:
            return await self._with_points(work, attempt)
        except Exception as fault:
            last = f"{type(fault).__name__}: {fault}"
            raise NeverSucceeded(f"{work} failed {RETRY_LIMIT} times, most recently with {last}") from fault

    async def _with_points(self, work: str, attempt: Callable[[], Awaitable[R]]) -> R:
        await self.injection.reach(f"before {work}")
        token = _driving.set(_Work(self.injection, work, self._calls.get(work, 1)))
        try:
            reply = await attempt()
        finally:
            _driving.reset(token)
        await self.injection.reach(f"after {work}")
        return reply


def instrumented(catalog: Catalog) -> Catalog:
    """The same catalog with copies of its operations, which reach a point before and after their body."""
    copies = {name: _copied(operation) for name, operation in catalog.operations.items()}
    return replace(catalog, operations=MappingProxyType(copies))


def _copied(operation: Operation[..., Any]) -> Operation[..., Any]:
    undo = operation.undo
    return replace(
        operation,
        _body=_with_inner_points(operation._body),  # pyright: ignore[reportPrivateUsage]
        undo=None if undo is None else replace(undo, body=_with_inner_points(undo.body)),
    )


def _with_inner_points(body: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(body)
    async def with_points(tx: Any, /, *arguments: Any, **named: Any) -> Any:
        await reach_entry(tx)
        result = await body(tx, *arguments, **named)
        await reach_inside(tx)
        return result

    return with_points


def _failed(command: StepCommand, fault: Exception) -> StepFailed:
    return StepFailed(f"step {command.number}, {command.operation}: {type(fault).__name__}: {fault}")
