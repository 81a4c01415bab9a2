"""A saga that records the calls `handle` makes and answers them from a table."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeGuard, cast

from orchestrator.definition.atomic import Atomically
from orchestrator.errors import Refused, UsageError
from orchestrator.event import DomainEvent
from orchestrator.operation import Operation, OperationCall
from orchestrator.protocol.envelope import saga_id
from orchestrator.saga import Awaited, Saga

LookupReply = Callable[[OperationCall[Any]], object] | object
"""A result, a `Refused`, a list of answers, or a function of the call. Named, so that a lambda knows what it takes."""


class RecordingSaga(Saga):
    """Runs nothing: remembers each call, and answers with what the test says.

        saga = RecordingSaga({metadata.convert: Converted(...)})
        completed = await MoneyTransfer().handle(event, saga)
        assert saga.calls == [metadata.convert(...), account.withdraw(...)]

    Args:
        answers: an operation's result; a `Refused` (raised); a list (one answer a call, in order); or a function of
            the call. An operation that returns None needs no answer.
        event_id: as the operations see it.
        event_time: as the operations see it, in UTC.
        events: what `saga.wait_for` receives, in order; when none is left that matches, the time is up.

    Attributes:
        calls: every call so far, in order, the refused among them. A pivot is one, too, and so is each
            `Atomically(...)` with the calls of one atomic step.
        slept: how long `saga.sleep` was asked to wait, in order. No time passes.
    """

    def __init__(
        self,
        answers: Mapping[Operation[..., Any], LookupReply] | None = None,
        *,
        event_id: str = "event-1",
        event_time: datetime = datetime(2026, 1, 1, tzinfo=UTC),
        events: Sequence[DomainEvent] = (),
    ) -> None:
        super().__init__(saga_id=saga_id("RecordingSaga", event_id), event_id=event_id, event_time=event_time)
        # A list is used up while `handle` runs, and the test's own stays as it is.
        self._answers = {one.name: _copied(answer) for one, answer in (answers or {}).items()}
        self._events = list(events)
        self.calls: list[OperationCall[Any]] = []
        self.slept: list[timedelta] = []

    async def sleep(self, duration: timedelta) -> None:
        """Remember how long."""
        self.slept.append(duration)

    async def wait_for(
        self, event: type[Awaited], *, matching: Callable[[Awaited], bool] | None = None, timeout: timedelta
    ) -> Awaited | None:
        """Answer with the first of the test's events that matches."""
        for one in self._events:
            if isinstance(one, event) and (matching is None or matching(one)):
                self._events.remove(one)
                return one
        return None

    async def _run(self, calls: Sequence[OperationCall[Any]], *, parallel: bool) -> list[Any]:
        results: list[Any] = []
        refusals: list[Refused] = []
        for call in calls:
            try:
                results.append(self._answer(call))
            except Refused as refusal:
                if not parallel:
                    raise
                refusals.append(refusal)  # the others run all the same, as they do in a real saga
        if refusals:
            raise refusals[0]
        return results

    def _answer(self, call: OperationCall[Any]) -> Any:
        self.calls.append(call)
        return tuple(self._one(one) for one in call.calls) if isinstance(call, Atomically) else self._one(call)

    def _one(self, call: OperationCall[Any]) -> Any:
        name = call.operation.name
        signature = call.operation.signature
        if name not in self._answers and signature.hints["return"] is not type(None):
            raise UsageError(f"the test gives no answer for {name}: RecordingSaga({{{name}: ...}})")
        answer: Any = self._answers.get(name)
        if _is_list(answer):
            if not answer:
                raise UsageError(f"the test has no answer left for call {len(self.calls)}, {call!r}")
            answer = answer.pop(0)
        if callable(answer) and not isinstance(answer, type):
            answer = cast(Callable[[OperationCall[Any]], Any], answer)(call)
        if isinstance(answer, Refused):
            raise answer
        return signature.load_result(signature.dump_result(answer))


def _copied(answer: LookupReply) -> LookupReply:
    return list(answer) if _is_list(answer) else answer


def _is_list(answer: object) -> TypeGuard[list[Any]]:
    return isinstance(answer, list)
