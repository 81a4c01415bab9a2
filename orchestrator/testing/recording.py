"""A saga that records the calls `handle` makes and answers them from a table."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from orchestrator.envelope import saga_id
from orchestrator.errors import Refused, UsageError
from orchestrator.operation import Operation, OperationCall
from orchestrator.saga import Saga

Answer = Any


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

    Attributes:
        calls: every call so far, in order, the refused among them.
    """

    def __init__(
        self,
        answers: Mapping[Operation[..., Any], Answer] | None = None,
        *,
        event_id: str = "event-1",
        event_time: datetime = datetime(2026, 1, 1, tzinfo=UTC),
    ) -> None:
        super().__init__(saga_id=saga_id("RecordingSaga", event_id), event_id=event_id, event_time=event_time)
        self._answers = {one.name: answer for one, answer in (answers or {}).items()}
        self.calls: list[OperationCall[Any]] = []

    async def _run(self, calls: Sequence[OperationCall[Any]], *, parallel: bool) -> list[Any]:
        return [self._answer(call) for call in calls]

    def _answer(self, call: OperationCall[Any]) -> Any:
        self.calls.append(call)
        name = call.operation.name
        answer: Any = self._answers.get(name)
        if isinstance(answer, list):
            queue = cast(list[Any], answer)
            if not queue:
                raise UsageError(f"the test has no answer left for call {len(self.calls)}, {call!r}")
            answer = queue.pop(0)
        if isinstance(answer, Refused):
            raise answer
        if callable(answer) and not isinstance(answer, type):
            answer = cast(Callable[[OperationCall[Any]], Any], answer)(call)
        if answer is None and call.operation.signature.hints["return"] not in (None, type(None)):
            raise UsageError(f"the test gives no answer for {name}: RecordingSaga({{{name.rpartition('.')[2]}: ...}})")
        return call.operation.signature.load_result(call.operation.signature.dump_result(answer))
