"""A saga that records the calls `handle` makes and answers them from a table."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeGuard, cast

from orchestrator.definition.atomic import Atomically
from orchestrator.errors import Refused, UsageError
from orchestrator.event import DomainEvent
from orchestrator.operation import Operation, OperationCall
from orchestrator.protocol.messages.envelope import saga_id
from orchestrator.saga import Awaited, Saga

Answer = Callable[[OperationCall[Any]], object] | object
"""A result, a `Refused`, a list of answers, or a function of the call. The alias gives a lambda's argument its type."""


class RecordingSaga(Saga):
    """Records each call and returns the test's answer to it, without running the operation.

        saga = RecordingSaga({metadata.convert: Converted(...)})
        completed = await MoneyTransfer().handle(event, saga)
        assert saga.calls == [metadata.convert(...), account.withdraw(...)]

    Args:
        answers: by operation: a result; a `Refused`, which is raised; a list with one answer for each call, in order;
            or a function of the call. An operation that returns None needs no answer.
        event_id: the event's id that operations see.
        event_time: the event's time that operations see, in UTC.
        events: the events that `saga.wait_for` receives, in order. If none matches, the wait times out.

    Attributes:
        calls: every call so far, in order, including refused ones. A pivot is recorded as a call, and an atomic step
            as one `Atomically(...)` that contains its calls.
        slept: the durations that were passed to `saga.sleep`, in order. No time passes.
    """

    def __init__(
        self,
        answers: Mapping[Operation[..., Any], Answer] | None = None,
        *,
        event_id: str = "event-1",
        event_time: datetime = datetime(2026, 1, 1, tzinfo=UTC),
        events: Sequence[DomainEvent] = (),
    ) -> None:
        super().__init__(saga_id=saga_id("RecordingSaga", event_id), event_id=event_id, event_time=event_time)
        # Lists are copied, because answers are removed from them while `handle` runs.
        self._answers = {operation.name: _copied(answer) for operation, answer in (answers or {}).items()}
        self._events = list(events)
        self.calls: list[OperationCall[Any]] = []
        self.slept: list[timedelta] = []

    async def sleep(self, duration: timedelta) -> None:
        """Record the duration and return immediately."""
        self.slept.append(duration)

    async def wait_for(
        self, event: type[Awaited], *, matching: Callable[[Awaited], bool] | None = None, timeout: timedelta
    ) -> Awaited | None:
        """Return the first of the test's events that matches, or None."""
        for candidate in self._events:
            if isinstance(candidate, event) and (matching is None or matching(candidate)):
                self._events.remove(candidate)
                return candidate
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
                refusals.append(refusal)  # the other calls still run, as they do in a real saga
        if refusals:
            raise refusals[0]
        return results

    def _answer(self, call: OperationCall[Any]) -> Any:
        self.calls.append(call)
        return tuple(map(self._result_of, call.calls)) if isinstance(call, Atomically) else self._result_of(call)

    def _result_of(self, call: OperationCall[Any]) -> Any:
        name = call.operation.name
        signature = call.operation.signature
        if name not in self._answers and signature.hints["return"] is not type(None):
            raise UsageError(f"the test has no answer for {name}. Pass one: RecordingSaga({{{name}: ...}})")
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


def _copied(answer: Answer) -> Answer:
    return list(answer) if _is_list(answer) else answer


def _is_list(answer: object) -> TypeGuard[list[Any]]:
    return isinstance(answer, list)
