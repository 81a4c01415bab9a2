"""The saga that a driver passes to `handle`: it numbers the steps and sends them through the port."""

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
from orchestrator.protocol.messages.envelope import CONTENT_LIMIT, Envelope, UnreadableEvent, canonical, read
from orchestrator.protocol.messages.unwrapping import unwrap
from orchestrator.protocol.messages.validation_errors import describe
from orchestrator.saga import Awaited, Saga

R = TypeVar("R")

SLEEP = "saga.sleep"
WAIT_FOR = "saga.wait_for"

STEPS_LIMIT = 1_000
"""The maximum number of steps in one saga. Each step adds six events to the history, which may have 51,200, and a line
to the failure event."""
SAGA_LIMIT = 20 * 1024 * 1024
"""The maximum number of bytes of all arguments and results of one saga. The server ends an execution whose history is
larger than 50 MiB."""
GROUP_LIMIT = 1024 * 1024
"""The maximum number of bytes of arguments in one group of parallel steps."""
GROUP_STEPS = 100
"""The maximum number of steps in one group of parallel steps."""


class Interrupted(BaseException):
    """Ends `handle`, because how the saga continues was decided outside of it.

    It is a BaseException, so that an author's `except Exception` does not catch it.
    """

    def __init__(self, why: Elsewhere | Exception) -> None:
        self.why = why
        super().__init__(str(why))


class DrivenSaga(Saga):
    """The saga of one run of `handle`. It runs steps through the port, one at a time unless they are parallel."""

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
        self._executed: list[OperationCall[Any]] = []
        self._extra_lines = 0
        """How many lines atomic steps add to the failure event, beyond one line for each step."""
        self._total_size = 0
        self.is_busy = False
        """Whether a step is running."""
        self.misused: Exception | None = None
        """The first mistake in `handle`. Every later step raises it again, and so does the driver after `handle`."""
        self.interrupted: Interrupted | None = None
        """The first interruption. Every later step raises it again, and so does the driver after `handle`."""
        self.ended_by: BaseException | None = None
        """An exception from the port that is not an `Exception`. It ends the driver, whatever `handle` does."""
        self.reached = 0
        """The number of the last step that `handle` called."""

    async def sleep(self, duration: timedelta) -> None:
        """Sleep durably."""
        seconds = self._seconds("sleep", duration)

        async def pause(number: int, seconds_left: float) -> None:
            await self._steps.pause(number, seconds_left)

        await self._wait(SLEEP, {"seconds": seconds}, seconds, pause)

    async def wait_for(
        self, event: type[Awaited], *, matching: Callable[[Awaited], bool] | None = None, timeout: timedelta
    ) -> Awaited | None:
        """Wait for an event that is sent to this saga, and return it; return None if none came in time."""
        name = event.type_name()
        if event not in self._awaited:
            raise self.misuse(
                f"`saga.wait_for` waits for {name}, which the orchestrator does not declare. "
                f"Add it: `awaited = ({event.__name__},)`"
            )
        matches: Any = matching or _any_event
        seconds = self._seconds("wait_for", timeout)

        async def receive(number: int, seconds_left: float) -> JsonValue:
            envelope = await self._steps.receive(number, event, matches, seconds_left)
            return None if envelope is None else envelope.text

        text = await self._wait(WAIT_FOR, {"event": name, "seconds": seconds}, seconds, receive)
        if text is None:
            return None
        try:
            envelope = read(str(text))
            received = unwrap(envelope, event, is_exact=False)
            self._steps.received(envelope, received)
            return received
        except UnreadableEvent as fault:
            raise self.misuse(
                f"the recorded {name} does not fit its current contract: {fault.message}. "
                "Deploy a contract that can read it"
            ) from fault

    def _seconds(self, method: str, duration: timedelta) -> float:
        if duration < timedelta(0):
            raise self.misuse(f"`saga.{method}` has the negative duration {duration}; give a positive one")
        if duration > LONGEST:
            raise self.misuse(f"`saga.{method}` has the duration {duration}; the limit is {LONGEST.days:,} days")
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
            reply: WaitAnswer = await self._with_locks(lambda: self._steps.begin_wait(command))
            self._opened = True
            if not isinstance(reply, WaitBegun):
                return self._wait_result(reply)
            result = await self._interruptible(waiting(number, max(reply.seconds_left, 0.0)))
            end = EndWaitCommand(saga=self._opening.saga, number=number, operation=operation, result=result)
            return self._wait_result(await self._interruptible(self._steps.end_wait(end)))
        finally:
            self.is_busy = False

    def _wait_result(self, reply: StepReply) -> JsonValue:
        match reply:
            case StepDone(result=result):
                return result
            case StepRefused() | Blocked():
                raise self.misuse(f"step {self.reached} is a wait, but the reply to it is {reply.kind}")
            case elsewhere:
                raise self._interrupt(elsewhere)

    def _atomically(self, calls: Sequence[OperationCall[Any]]) -> Atomically:
        try:
            return super()._atomically(calls)
        except UsageError as fault:
            raise self.misuse(str(fault)) from None

    async def _run(self, calls: Sequence[OperationCall[Any]], *, parallel: bool) -> list[Any]:
        # Each call of an atomic step has its own line in the failure event.
        extra_lines = sum(len(call.calls) - 1 for call in calls if isinstance(call, Atomically))
        self._may_begin(len(calls) + extra_lines)
        self._extra_lines += extra_lines
        past_pivot = self._past_pivot
        if parallel and len(calls) > 1 and any(call.operation.reversal is Reversal.IRREVERSIBLE for call in calls):
            raise self.misuse(
                "a step that cannot be undone runs in parallel with others, so the saga could neither be undone nor "
                "completed if one of them is refused. Run it in its own `execute`"
            )
        for call in calls:
            self._add_size(self._check(call, past_pivot))
            self._executed += call.calls if isinstance(call, Atomically) else (call,)
            if not parallel and call.operation.reversal is Reversal.IRREVERSIBLE:
                past_pivot = _named(call)
        numbered = list(enumerate(calls, start=self.reached + 1))
        self.is_busy = True
        try:
            if parallel:
                self.reached += len(calls)
                return await self._run_parallel(numbered)
            results: list[Any] = []
            for number, call in numbered:
                self.reached = number
                results.append(self._result(call, await self._run_step(number, call)))
            return results
        finally:
            self.is_busy = False

    def _add_size(self, size: int) -> None:
        self._total_size += size
        if self._total_size > SAGA_LIMIT:
            raise self.misuse(
                f"the arguments and results of one saga take {self._total_size:,} bytes and the limit is "
                f"{SAGA_LIMIT:,}. Store large values in tables, and pass their ids between operations"
            )

    def _may_begin(self, steps: int) -> None:
        if self.interrupted:
            raise self.interrupted
        if self.misused:
            raise self.misused
        if self.is_busy:
            raise self.misuse(
                "a step was begun while another one was running, so their numbers would depend on timing. "
                "You want: `await saga.execute_all(first, second, parallel=True)`"
            )
        if self.reached + self._extra_lines + steps > STEPS_LIMIT:
            raise self.misuse(f"a saga can have at most {STEPS_LIMIT:,} steps. Publish events for the rest")

    async def _run_parallel(self, numbered: Sequence[tuple[int, OperationCall[Any]]]) -> list[Any]:
        replies: list[StepAnswer] = []
        for group in _groups(numbered, first_alone=not self._opened):
            replies += await self._run_group(group)
            # Only the first group carries the envelope, so later groups could not notice that the event differs.
            elsewhere = next((reply for reply in replies if isinstance(reply, Elsewhere)), None)
            if elsewhere is not None:
                raise self._interrupt(elsewhere)
        return [self._result(call, reply) for (_, call), reply in zip(numbered, replies, strict=True)]

    async def _run_group(self, group: Sequence[tuple[int, OperationCall[Any]]]) -> list[StepAnswer]:
        tasks = [asyncio.ensure_future(self._run_step(number, call)) for number, call in group]
        try:
            results = await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        replies: list[StepAnswer] = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            replies.append(result)
        return replies

    async def _run_step(self, number: int, call: OperationCall[Any]) -> StepAnswer:
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
        """Send a command; while the saga is blocked, wait for its locks and send the command again."""
        while isinstance(reply := await self._interruptible(send()), Blocked):
            await self._interruptible(self._steps.wait_for_locks(reply))
        return reply

    async def _interruptible(self, call: Awaitable[R]) -> R:
        """Await a call of the port. Its cancellation or failure ends `handle`, even if `handle` catches the error."""
        try:
            return await call
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
                    raise self.misuse(f"step {reply.number} is {call!r}, but the reply is for {reply.operation}")
                if call.operation.reversal is Reversal.IRREVERSIBLE:
                    self._past_pivot = _named(call)
                self._add_size(len(canonical(reply.result).encode()))
                try:
                    return call.operation.signature.load_result(reply.result)
                except ValidationError as fault:
                    raise self.misuse(
                        f"the recorded result of {_named(call)} does not fit its current type: {describe(fault)}. "
                        "Deploy a type that can read it"
                    ) from fault
            case StepRefused():
                raise Refused.recorded(reply.code, reply.message, reply.details)
            case elsewhere:
                raise self._interrupt(elsewhere)

    def forgotten(self, described: Sequence[OperationCall[Any]]) -> UsageError | None:
        """Return the error for a call that `handle` described but never passed to the saga; None if there is none."""
        executed = {id(call) for call in self._executed}
        for call in described:
            if id(call) not in executed:
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
        """Return the error for a mistake in `handle`, and remember the first one for the driver to raise."""
        error = UsageError(message)
        self.misused = self.misused or error
        return error

    def _check(self, call: OperationCall[Any], past_pivot: str | None) -> int:
        """Check that a call may run now, and return the size of its arguments in bytes."""
        if not isinstance(call, OperationCall):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise self.misuse(
                "`saga.execute` takes the call of an operation, as in `saga.execute(withdraw(...))`, and `execute_all` "
                f"takes several, as in `saga.execute_all(*calls)`, not a value of type {type(call).__name__}"
            )
        if (size := call.size) > CONTENT_LIMIT:
            raise self.misuse(f"the arguments of {_named(call)} take {size:,} bytes and the limit is {CONTENT_LIMIT:,}")
        for inner_call in call.calls if isinstance(call, Atomically) else (call,):
            self._check_side_of_pivot(inner_call, past_pivot)
        return size

    def _check_side_of_pivot(self, call: OperationCall[Any], past_pivot: str | None) -> None:
        if past_pivot and call.operation.reversal is Reversal.COMPENSATED:
            raise self.misuse(
                f"{call.operation.name} comes after {past_pivot}, which cannot be undone, so the saga could not be "
                "undone if this step is refused. Put the irreversible step last, or declare this one as "
                "`@operation(retriable=True)` without a compensation"
            )
        if not past_pivot and call.operation.reversal is Reversal.RETRIABLE:
            raise self.misuse(
                f"{call.operation.name} is retriable, so it has no compensation, and the saga has no pivot before it. "
                "Write `await saga.pivot()` first, or give it a compensation"
            )


def _any_event(event: DomainEvent) -> bool:
    return True


def _named(call: OperationCall[Any]) -> str:
    return named(call.operation.name, call.arguments)


def _groups(
    numbered: Sequence[tuple[int, OperationCall[Any]]], *, first_alone: bool
) -> Iterator[Sequence[tuple[int, OperationCall[Any]]]]:
    """Split parallel steps into groups, because the server ends an execution whose workflow task sends over 4 MiB.

    With `first_alone` the first step has its own group, so that the others need not carry the envelope.
    """
    group: list[tuple[int, OperationCall[Any]]] = []
    group_size = 0
    for number, call in numbered:
        is_first = first_alone and len(group) == 1 and group[0][0] == numbered[0][0]
        size = call.size
        if group and (is_first or group_size + size > GROUP_LIMIT or len(group) == GROUP_STEPS):
            yield group
            group, group_size = [], 0
        group.append((number, call))
        group_size += size
    if group:
        yield group
