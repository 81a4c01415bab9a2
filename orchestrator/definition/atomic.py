"""Operations that are one step together: one activity, one fence row, one transaction, one undo.

The step is the engine's own operation `saga.atomic`; its arguments are the calls, its result their results, in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

from pydantic import JsonValue, ValidationError
from pydantic_core import PydanticCustomError

from orchestrator.errors import UsageError
from orchestrator.external import ExternalOperation
from orchestrator.operation import HOME, PIVOT, Compensation, Operation, OperationCall, Reversal, Source
from orchestrator.transaction import Transaction
from orchestrator.values.results import result_as_json
from orchestrator.values.signature import Signature

AnyOperation = Operation[..., Any]

UNDO_ATOMIC = "saga.undo_atomic"
"""The activity that undoes an atomic step."""
_CALLS = "calls"


class _Signature(Signature):
    """What goes in and out of the step: each call through its own operation's types."""

    def __init__(self, operations: Sequence[AnyOperation]) -> None:
        super().__init__(_calls_nothing)
        self._operations = operations

    @cached_property
    def hints(self) -> Mapping[str, Any]:
        """As annotations would say it: nothing is returned if no call returns anything."""
        returned = [operation.signature.hints["return"] for operation in self._operations]
        return {"return": type(None) if all(one in (None, type(None)) for one in returned) else tuple}

    def dump_arguments(self, arguments: Mapping[str, Any]) -> dict[str, JsonValue]:
        """Each call's arguments as JSON, from `calls`: a list of dicts in the operations' order.

        Raises:
            pydantic.ValidationError: an argument is not of its declared type.
            ValueError: its text cannot be stored.
        """
        return recorded_calls(
            (operation.name, operation.signature.dump_arguments(given))
            for operation, given in zip(self._operations, arguments[_CALLS], strict=True)
        )

    def load_arguments(self, recorded: Mapping[str, JsonValue]) -> dict[str, Any]:
        """Recorded calls as today's types have them, as `dump_arguments` takes them.

        Raises:
            pydantic.ValidationError: they are other calls, or do not fit today's types.
        """
        calls = calls_in(recorded)
        if [name for name, _ in calls] != [operation.name for operation in self._operations]:
            raise _unfit(f"the calls are {', '.join(name for name, _ in calls)}", dict(recorded))
        return {
            _CALLS: [
                operation.signature.load_arguments(given)
                for operation, (_, given) in zip(self._operations, calls, strict=True)
            ]
        }

    def dump_result(self, result: Any) -> JsonValue:
        """The calls' results as a list.

        Raises:
            ResultInvalid: one is not what its operation declares.
        """
        return [
            result_as_json(operation.name, operation.signature, one)
            for operation, one in zip(self._operations, result, strict=True)
        ]

    def load_result(self, recorded: JsonValue) -> Any:
        """Recorded results as today's types have them: a tuple. None, of a step that was skipped: no call gave one.

        Raises:
            pydantic.ValidationError: they do not fit today's types.
        """
        results = [None] * len(self._operations) if recorded is None else recorded
        if not isinstance(results, list) or len(results) != len(self._operations):
            raise _unfit("there is not one result for each call", recorded)
        return tuple(
            operation.signature.load_result(one) for operation, one in zip(self._operations, results, strict=True)
        )


@dataclass(eq=False, kw_only=True)
class AtomicOperation(Operation[..., tuple[Any, ...]]):
    """The operation of an atomic step: made for its calls, as `atomic_operation` does."""

    operations: tuple[AnyOperation, ...] = ()
    """Of the calls, in order."""

    @property
    def kind(self) -> str:
        """What its step is recorded as. One of queries alone is a query: it had no effect."""
        return "query" if self.operations and self.reversal is Reversal.NOTHING else "atomic"

    @cached_property
    def signature(self) -> Signature:
        """Each call through its own operation's types."""
        return _Signature(self.operations)


class Atomically(OperationCall[tuple[Any, ...]]):
    """Calls that are one step: what `saga.execute_atomically` runs, and what `RecordingSaga.calls` shows.

    Raises:
        UsageError: something is not a call, or cannot be in one transaction with others.
    """

    __slots__ = ("calls",)

    calls: tuple[OperationCall[Any], ...]

    def __init__(self, *calls: OperationCall[Any]) -> None:
        for call in calls:
            _must_fit(call)
        # One transaction is of one database.
        databases = {call.operation.database for call in calls}
        if len(databases) > 1:
            raise UsageError(
                f"operations of the databases {', '.join(sorted(databases))} are in one step, and a transaction is of "
                "one database: give those of each a step of their own, or use `execute_batch`"
            )
        operation = atomic_operation(tuple(call.operation for call in calls))
        arguments = recorded_calls((call.operation.name, dict(call.arguments)) for call in calls)
        for name, value in {"operation": operation, "arguments": arguments, "calls": calls}.items():
            object.__setattr__(self, name, value)  # a call is frozen
        self.__post_init__()

    def __repr__(self) -> str:
        return f"Atomically({', '.join(repr(call) for call in self.calls)})"


@lru_cache(maxsize=512)
def atomic_operation(operations: tuple[AnyOperation, ...]) -> AtomicOperation:
    """The operation of a step that calls these, in order: made once, with the types that it reads and writes."""
    return AtomicOperation(
        _body=_calls_nothing,
        name="saga.atomic",
        module=__name__,
        source=Source("", 0),
        reversal=_reversal([operation.reversal for operation in operations]),
        reason=next((operation.reason for operation in operations if operation.reason is not None), None),
        deadline=max((operation.deadline for operation in operations), default=PIVOT.deadline),
        undo=Compensation(body=_undoes_nothing, name=UNDO_ATOMIC, source=Source("", 0)),
        database=next((operation.database for operation in operations), HOME),
        operations=operations,
    )


def recorded_calls(calls: Any) -> dict[str, JsonValue]:
    """Pairs of an operation's name and its arguments, as the step's arguments."""
    return {_CALLS: [{"operation": name, "arguments": arguments} for name, arguments in calls]}


def calls_in(arguments: Mapping[str, JsonValue]) -> list[tuple[str, dict[str, JsonValue]]]:
    """The calls that a step's arguments carry: operation and arguments of each, in order.

    Raises:
        pydantic.ValidationError: they are no calls.
    """
    try:
        calls = cast(list[dict[str, Any]], arguments[_CALLS])
        return [(str(call["operation"]), dict(call["arguments"])) for call in calls]
    except (KeyError, TypeError, ValueError):
        raise _unfit("no list of calls", dict(arguments)) from None


def names_in(operation: str, arguments: Mapping[str, JsonValue]) -> tuple[str, ...]:
    """Operations that a step runs: those of its calls, if it is atomic."""
    return tuple(name for name, _ in calls_in(arguments)) if operation == ATOMIC.name else (operation,)


def named(operation: str, arguments: Mapping[str, JsonValue]) -> str:
    """A step's operation as people read it: `account.withdraw, account.deposit` of an atomic one."""
    return ", ".join(names_in(operation, arguments))


def _must_fit(call: object) -> None:
    if not isinstance(call, OperationCall):
        raise UsageError(
            "`saga.execute_atomically` takes described calls, as in `saga.execute_atomically(withdraw(...), "
            f"deposit(...))`, not {type(call).__name__}"
        )
    operation = cast(Any, call).operation
    if isinstance(operation, ExternalOperation):
        raise UsageError(
            f"{operation.name} calls the outside world, which no transaction takes back, so it cannot be in one step "
            "with others: give it an `execute` of its own"
        )
    if isinstance(operation, AtomicOperation):
        raise UsageError("an atomic step is in another one: name all the calls in one `saga.execute_atomically`")
    if operation.name == PIVOT.name:
        raise UsageError("the pivot is a step of its own: `await saga.pivot()` before or after the atomic one")


def _reversal(of_calls: Sequence[Reversal]) -> Reversal:
    """The step's, which stands or falls as a whole: irreversible with one that is, else undone if anything has to be.

    Beside an irreversible call the others are never undone: the step is done, and with it past undoing, or not at all.
    """
    order = (Reversal.IRREVERSIBLE, Reversal.COMPENSATED, Reversal.RETRIABLE)
    return next((one for one in order if one in of_calls), Reversal.NOTHING)


def _unfit(why: str, given: Any) -> ValidationError:
    fault = PydanticCustomError("atomic_step", cast(Any, why.replace("{", "(").replace("}", ")")))
    return ValidationError.from_exception_data("atomic step", [{"type": fault, "loc": (_CALLS,), "input": given}])


async def _calls_nothing(tx: Transaction, /, *_: Any, **__: Any) -> tuple[Any, ...]:
    """Never run: the store runs the calls."""
    return ()


async def _undoes_nothing(tx: Transaction) -> None:
    """Never run: the store runs the calls' compensations."""


ATOMIC = atomic_operation(())
"""The engine's own operation, without any calls: its activities' names, and whatever holds for every atomic step."""
