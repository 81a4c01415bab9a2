"""The saga that `handle` is given when it is really driven: numbers steps and sends them through the port."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import JsonValue, ValidationError

from orchestrator.definition.atomic import Atomically, named
from orchestrator.definition.durations import LONGEST
from orchestrator.drive.steps import CancelRequested, Steps
from orchestrator.errors import Refused, UsageError
from orchestrator.event import DomainEvent
from orchestrator.operation import OperationCall, Reversal
from orchestrator.protocol.commands import (
    Blocked,
    Elsewhere,
    EndWaitCommand,
    Opening,
    StepAnswer,
    StepCommand,
    StepDone,
    StepRefused,
    StepReply,
    WaitAnswer,
    WaitBegun,
    WaitCommand,
)
from orchestrator.protocol.envelope import CONTENT_LIMIT, Envelope, UnreadableEvent, canonical, read
from orchestrator.protocol.unwrapping import describe, unwrap
from orchestrator.saga import Awaited, Saga

R = TypeVar("R")

SLEEP = "saga.sleep"
WAIT_FOR = "saga.wait_for"

STEPS_LIMIT = 1_000
"""Steps of one saga. Each is six events of a history that ends at 51,200, and a line of the failure event."""
SAGA_LIMIT = 20 * 1024 * 1024
"""Bytes of all arguments and results of one saga: the server ends an execution whose history passes 50 MiB."""
GROUP_LIMIT = 1024 * 1024
"""Bytes of arguments that go out together."""
GROUP_STEPS = 100
"""Steps that go out together."""


class Interrupted(BaseException):
    """`handle` is to end here: something other than it decides. No `except Exception` of an author catches it."""

    def __init__(self, why: Elsewhere | Exception) -> None:
        self.why = why
        super().__init__(str(why))


class DrivenSaga(Saga):
    """Runs each step through the port, one at a time unless asked for more."""

    def __init__(
        self,
        opening: Opening,
        envelope: Envelope,
        steps: Steps,
        awaited: Sequence[type[DomainEvent]] = (),
        *,
        opened: bool = False,
    ) -> None:
        super().__init__(saga_id=opening.saga.id, event_id=envelope.event_id, event_time=envelope.time)
        self._opening = opening
        self._event_time = envelope.time.isoformat()
        self._steps = steps
        self._awaited = awaited
        self._opened = opened
        self._past_pivot: str | None = None
        self._given: list[OperationCall[Any]] = []
        self._beside = 0
        self._carried = 0
        self.is_busy = False
        """A step is under way."""
        self.misused: Exception | None = None
        """A mistake in `handle`: raised again by every later step, and by the driver when `handle` swallowed it."""
        self.interrupted: Interrupted | None = None
        """Set once; every later step raises it again, and so does the driver when `handle` swallowed it."""
        self.ended_by: BaseException | None = None
        """What the port raised that is no `Exception`: the driving itself ends, and `handle` has no say in it."""
        self.reached = 0
        """Number of the last step that `handle` called."""

    async def sleep(self, duration: timedelta) -> None:
        """Wait, durably."""
        seconds = self._seconds("sleep", duration)

        async def rest(number: int, left: float) -> None:
            await self._steps.pause(number, left)

        await self._wait(SLEEP, {"seconds": seconds}, seconds, rest)

    async def wait_for(
        self, event: type[Awaited], *, matching: Callable[[Awaited], bool] | None = None, timeout: timedelta
    ) -> Awaited | None:
        """Wait for an event that is sent to this saga."""
        name = event.type_name()
        if event not in self._awaited:
            raise self.misuse(f"the orchestrator waits for {name} and does not say so: `awaited = ({event.__name__},)`")
        is_wanted: Any = matching or _any_event
        seconds = self._seconds("wait_for", timeout)

        async def receive(number: int, left: float) -> JsonValue:
            envelope = await self._steps.receive(number, event, is_wanted, left)
            return None if envelope is None else envelope.text

        text = await self._wait(WAIT_FOR, {"event": name, "seconds": seconds}, seconds, receive)
        if text is None:
            return None
        try:
            envelope = read(str(text))
            taken = unwrap(envelope, event, is_exact=False)
            self._steps.received(envelope, taken)
            return taken
        except UnreadableEvent as fault:
            raise self.misuse(f"the recorded {name} is none of today's: {fault.message}") from fault

    def _seconds(self, what: str, duration: timedelta) -> float:
        if duration < timedelta(0):
            raise self.misuse(f"`saga.{what}` for {duration}: time does not go back")
        if duration > LONGEST:
            raise self.misuse(f"`saga.{what}` for {duration}: {LONGEST.days:,} days are the most")
        return duration.total_seconds()

    async def _wait(
        self,
        operation: str,
        arguments: dict[str, JsonValue],
        seconds: float,
        waiting: Callable[[int, float], Awaitable[JsonValue]],
    ) -> JsonValue:
        self._may_begin(1)
        number = self.reached = self.reached + 1
        self.is_busy = True
        try:
            command = WaitCommand(
                saga=self._opening.saga,
                number=number,
                operation=operation,
                arguments=arguments,
                seconds=seconds,
                opening=None if self._opened else self._opening,
            )
            begun: WaitAnswer = await self._with_locks(lambda: self._steps.begin_wait(command))
            self._opened = True
            if not isinstance(begun, WaitBegun):
                return self._answer(begun)
            result = await self._heeding(waiting(number, max(begun.seconds_left, 0.0)))
            end = EndWaitCommand(saga=self._opening.saga, number=number, operation=operation, result=result)
            return self._answer(await self._heeding(self._steps.end_wait(end)))
        finally:
            self.is_busy = False

    def _answer(self, reply: StepReply) -> JsonValue:
        match reply:
            case StepDone(result=result):
                return result
            case StepRefused() | Blocked():
                raise self.misuse(f"step {self.reached} waits, and is answered as {reply.kind}")
            case elsewhere:
                raise self._interrupt(elsewhere)

    def _atomically(self, calls: Sequence[OperationCall[Any]]) -> Atomically:
        try:
            return super()._atomically(calls)
        except UsageError as fault:
            raise self.misuse(str(fault)) from None

    async def _run(self, calls: Sequence[OperationCall[Any]], *, parallel: bool) -> list[Any]:
        # Each call of an atomic step is a line of the failure event, too.
        beside = sum(len(call.calls) - 1 for call in calls if isinstance(call, Atomically))
        self._may_begin(len(calls) + beside)
        self._beside += beside
        past_pivot = self._past_pivot
        if parallel and len(calls) > 1 and any(call.operation.reversal is Reversal.IRREVERSIBLE for call in calls):
            raise self.misuse(
                "a step that cannot be undone is run at once with others, so when one of them is refused there is no "
                "way back and none forward: give it an `execute` of its own"
            )
        for call in calls:
            self._carry(self._check(call, past_pivot))
            self._given += call.calls if isinstance(call, Atomically) else (call,)
            if not parallel and call.operation.reversal is Reversal.IRREVERSIBLE:
                past_pivot = _named(call)
        numbered = list(enumerate(calls, start=self.reached + 1))
        self.is_busy = True
        try:
            if parallel:
                self.reached += len(calls)
                return await self._at_once(numbered)
            results: list[Any] = []
            for number, call in numbered:
                self.reached = number
                results.append(self._result(call, await self._one(number, call)))
            return results
        finally:
            self.is_busy = False

    def _carry(self, size: int) -> None:
        self._carried += size
        if self._carried > SAGA_LIMIT:
            raise self.misuse(
                f"the arguments and results of one saga take {self._carried:,} bytes and the limit is {SAGA_LIMIT:,}: "
                "let operations keep large values in their tables, and hand on their ids"
            )

    def _may_begin(self, steps: int) -> None:
        if self.interrupted:
            raise self.interrupted
        if self.misused:
            raise self.misused
        if self.is_busy:
            raise self.misuse(
                "a second step was begun while one is running, so their numbers would depend on timing. "
                "You want: `await saga.execute_batch(first, second, parallel=True)`"
            )
        if self.reached + self._beside + steps > STEPS_LIMIT:
            raise self.misuse(f"a saga takes {STEPS_LIMIT:,} steps at most: let it publish events for the rest")

    async def _at_once(self, numbered: Sequence[tuple[int, OperationCall[Any]]]) -> list[Any]:
        replies: list[StepAnswer] = []
        for group in _groups(numbered, alone=not self._opened):
            replies += await self._together(group)
            # Whoever is not to go on sends no further group: those do not carry the envelope, by which it was seen.
            elsewhere = next((reply for reply in replies if isinstance(reply, Elsewhere)), None)
            if elsewhere is not None:
                raise self._interrupt(elsewhere)
        return [self._result(call, reply) for (_, call), reply in zip(numbered, replies, strict=True)]

    async def _together(self, group: Sequence[tuple[int, OperationCall[Any]]]) -> list[StepAnswer]:
        tasks = [asyncio.ensure_future(self._one(number, call)) for number, call in group]
        try:
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        replies: list[StepAnswer] = []
        for reply in ended:
            if isinstance(reply, BaseException):
                raise reply
            replies.append(reply)
        return replies

    async def _one(self, number: int, call: OperationCall[Any]) -> StepAnswer:
        limit = call.operation.attempt_limit
        command = StepCommand(
            saga=self._opening.saga,
            number=number,
            operation=call.operation.name,
            arguments=dict(call.arguments),
            event_time=self._event_time,
            opening=None if self._opened else self._opening,
            past_pivot=self._past_pivot is not None,
            attempt_limit=None if limit is None else limit.total_seconds(),
        )
        reply: StepAnswer = await self._with_locks(lambda: self._steps.run(command, call.operation.deadline))
        self._opened = True
        return reply

    async def _with_locks(self, send: Callable[[], Awaitable[R | Blocked]]) -> R:
        """Send what opens the saga, again whenever it may hold its locks."""
        while isinstance(reply := await self._heeding(send()), Blocked):
            await self._heeding(self._steps.wait_for_locks(reply))
        return reply

    async def _heeding(self, work: Awaitable[R]) -> R:
        """Await the port; a cancel or a failure there ends `handle`, whatever it does with the error."""
        try:
            return await work
        except asyncio.CancelledError:
            self._interrupt(CancelRequested())
            raise
        except Exception as failure:
            raise self._interrupt(failure) from failure
        except BaseException as end:
            self.ended_by = end
            raise

    def _result(self, call: OperationCall[Any], reply: StepAnswer) -> Any:
        match reply:
            case StepDone():
                if reply.operation != call.operation.name:
                    raise self.misuse(f"step {reply.number} answered as {reply.operation}, asked was {call!r}")
                if call.operation.reversal is Reversal.IRREVERSIBLE:
                    self._past_pivot = _named(call)
                self._carry(len(canonical(reply.result).encode()))
                try:
                    return call.operation.signature.load_result(reply.result)
                except ValidationError as fault:
                    message = f"the recorded result of {_named(call)} is none of today's: {describe(fault)}"
                    raise self.misuse(message) from fault
            case StepRefused():
                raise Refused(reply.code, reply.message)
            case elsewhere:
                raise self._interrupt(elsewhere)

    def forgotten(self, described: Sequence[OperationCall[Any]]) -> UsageError | None:
        """What to say of a call that `handle` described and never gave to the saga: its author thinks it was done."""
        given = {id(call) for call in self._given}
        for call in described:
            if id(call) not in given:
                short = call.operation.name.rpartition(".")[2]
                return self.misuse(
                    f"`{short}(...)` only describes a call, and nothing ran it. "
                    f"You want: `await saga.execute({short}(...))`"
                )
        return None

    def _interrupt(self, why: Elsewhere | Exception) -> Interrupted:
        if self.interrupted is None:
            self.interrupted = Interrupted(why)
        return self.interrupted

    def misuse(self, message: str) -> UsageError:
        """Remember a mistake in `handle`; the first one is what the driver raises."""
        error = UsageError(message)
        self.misused = self.misused or error
        return error

    def _check(self, call: OperationCall[Any], past_pivot: str | None) -> int:
        """Bytes of a call's arguments, if it may be run here."""
        if not isinstance(call, OperationCall):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise self.misuse(
                f"`saga.execute` takes a described call, as in `saga.execute(withdraw(...))`, not {type(call).__name__}"
            )
        if (size := call.size) > CONTENT_LIMIT:
            raise self.misuse(f"the arguments of {_named(call)} take {size:,} bytes and the limit is {CONTENT_LIMIT:,}")
        for one in call.calls if isinstance(call, Atomically) else (call,):
            self._check_place(one, past_pivot)
        return size

    def _check_place(self, call: OperationCall[Any], past_pivot: str | None) -> None:
        if past_pivot and call.operation.reversal is Reversal.COMPENSATED:
            raise self.misuse(
                f"{call.operation.name} comes after {past_pivot}, which cannot be undone, so a refusal here "
                "could not be answered by undoing: put the irreversible step last, or make this one "
                "`@operation(retriable=True)`, without a compensation"
            )
        if not past_pivot and call.operation.reversal is Reversal.RETRIABLE:
            raise self.misuse(
                f"{call.operation.name} is retriable, so it has no compensation, and nothing before it is the pivot: "
                "write `await saga.pivot()` first, or give it a compensation"
            )


def _any_event(event: DomainEvent) -> bool:
    return True


def _named(call: OperationCall[Any]) -> str:
    return named(call.operation.name, call.arguments)


def _groups(
    numbered: Sequence[tuple[int, OperationCall[Any]]], *, alone: bool
) -> Iterator[Sequence[tuple[int, OperationCall[Any]]]]:
    """Steps that go out together. What one workflow task sends is bounded: over 4 MiB the server ends the execution.

    With `alone` the first step goes by itself, so that the others need not carry the envelope.
    """
    group: list[tuple[int, OperationCall[Any]]] = []
    together = 0
    for number, call in numbered:
        first_alone = alone and len(group) == 1 and group[0][0] == numbered[0][0]
        size = call.size
        if group and (first_alone or together + size > GROUP_LIMIT or len(group) == GROUP_STEPS):
            yield group
            group, together = [], 0
        group.append((number, call))
        together += size
    if group:
        yield group
