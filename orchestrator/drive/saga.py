"""The saga that `handle` is given when it is really driven: numbers steps and sends them through the port."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from orchestrator.drive.messages import (
    Decided,
    Diverged,
    Opening,
    Resume,
    Reused,
    StepCommand,
    StepDone,
    StepRefused,
    StepReply,
)
from orchestrator.drive.steps import CancelRequested, Steps
from orchestrator.envelope import CONTENT_LIMIT, Envelope, canonical
from orchestrator.errors import Refused, UsageError
from orchestrator.operation import Operation, OperationCall, Reversal
from orchestrator.saga import Saga

R = TypeVar("R")
OperationOf = Callable[[str], Operation[..., Any]]


class Interrupted(BaseException):
    """`handle` is to end here: something other than it decides. No `except Exception` of an author catches it."""

    def __init__(self, why: "Decided | Diverged | Reused | Resume | Exception") -> None:
        self.why = why
        super().__init__(str(why))


class DrivenSaga(Saga):
    """Runs each step through the port, one at a time unless asked for more."""

    def __init__(self, opening: Opening, envelope: Envelope, steps: Steps) -> None:
        super().__init__(saga_id=opening.saga.id, event_id=envelope.event_id, event_time=envelope.time)
        self._opening = opening
        self._event_time = envelope.time.isoformat()
        self._steps = steps
        self._opened = False
        self._busy = False
        self._past_pivot: str | None = None
        self.interrupted: Interrupted | None = None
        """Set once; every later step raises it again, and so does the driver when `handle` swallowed it."""
        self.reached = 0
        """Number of the last step that `handle` called."""

    async def _run(self, calls: Sequence[OperationCall[Any]], *, parallel: bool) -> list[Any]:
        if self.interrupted:
            raise self.interrupted
        if self._busy:
            raise UsageError(
                "a second step was begun while one is running, so their numbers would depend on timing. "
                "You want: `await saga.execute_batch(first, second, parallel=True)`"
            )
        for call in calls:
            self._check(call)
        first = self.reached + 1
        numbered = list(enumerate(calls, start=first))
        self._busy = True
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
            self._busy = False

    async def _at_once(self, numbered: Sequence[tuple[int, OperationCall[Any]]]) -> list[Any]:
        tasks = [asyncio.ensure_future(self._one(number, call)) for number, call in numbered]
        try:
            replies = await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        settled = [reply for reply in replies if not isinstance(reply, BaseException)]
        return [self._result(call, reply) for (_, call), reply in zip(numbered, settled, strict=True)]

    async def _one(self, number: int, call: OperationCall[Any]) -> StepReply:
        command = StepCommand(
            saga=self._opening.saga,
            number=number,
            operation=call.operation.name,
            arguments=dict(call.arguments),
            event_time=self._event_time,
            opening=None if self._opened else self._opening,
        )
        try:
            reply = await self._steps.run(command, call.operation.deadline)
        except asyncio.CancelledError:
            self._interrupt(CancelRequested())
            raise
        except Exception as failure:
            raise self._interrupt(failure) from failure
        self._opened = True
        return reply

    def _result(self, call: OperationCall[Any], reply: StepReply) -> Any:
        match reply:
            case StepDone():
                if reply.operation != call.operation.name:
                    raise UsageError(f"step {reply.number} answered as {reply.operation}, asked was {call!r}")
                if call.operation.reversal is Reversal.IRREVERSIBLE:
                    self._past_pivot = call.operation.name
                return call.operation.signature.load_result(reply.result)
            case StepRefused():
                raise Refused(reply.code, reply.message)
            case Decided() | Diverged() | Reused() | Resume():
                raise self._interrupt(reply)

    def _interrupt(self, why: "Decided | Diverged | Reused | Resume | Exception") -> Interrupted:
        if self.interrupted is None:
            self.interrupted = Interrupted(why)
        return self.interrupted

    def _check(self, call: OperationCall[Any]) -> None:
        if not isinstance(call, OperationCall):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(
                f"`saga.execute` takes a described call, as in `saga.execute(withdraw(...))`, not {type(call).__name__}"
            )
        if (size := len(canonical(dict(call.arguments)).encode())) > CONTENT_LIMIT:
            raise UsageError(
                f"the arguments of {call.operation.name} take {size:,} bytes and the limit is {CONTENT_LIMIT:,}"
            )
        if self._past_pivot and call.operation.reversal is Reversal.COMPENSATED:
            raise UsageError(
                f"{call.operation.name} comes after {self._past_pivot}, which cannot be undone, so a refusal here "
                "could not be answered by undoing: put the irreversible step last"
            )
