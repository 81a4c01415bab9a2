"""Atomic steps: several operations in one step, with one activity, one fence row, one transaction and one undo.

The step runs the engine's own operation `saga.atomic`. Its arguments are the calls, and its result is their results, in
order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

from pydantic import JsonValue, ValidationError
from pydantic_core import PydanticCustomError

from orchestrator.definition.source import Source
from orchestrator.errors import UsageError
from orchestrator.external import ExternalOperation
from orchestrator.operation import HOME, PIVOT, Compensation, Operation, OperationCall, Reversal
from orchestrator.retry import strictest
from orchestrator.transaction import Transaction
from orchestrator.values.results import result_as_json
from orchestrator.values.signature import Signature

AnyOperation = Operation[..., Any]

UNDO_ATOMIC = "saga.undo_atomic"
"""The activity that undoes an atomic step."""
_CALLS = "calls"


class _Signature(Signature):
    """The arguments and results of the step. Each call uses its own operation's types."""

    def __init__(self, operations: Sequence[AnyOperation]) -> None:
        super().__init__(_calls_nothing)
        self._operations = operations

    @cached_property
    def hints(self) -> Mapping[str, Any]:
        """The step's return type: None if no call returns anything, otherwise a tuple."""
        returned = [operation.signature.hints["return"] for operation in self._operations]
        return {"return": type(None) if all(hint in (None, type(None)) for hint in returned) else tuple}

    def dump_arguments(self, arguments: Mapping[str, Any]) -> dict[str, JsonValue]:
        """Return each call's arguments as JSON. `calls` is a list of dicts, in the order of the operations.

        Raises:
            pydantic.ValidationError: an argument does not have its declared type.
            ValueError: an argument's text cannot be stored.
        """
        return recorded_calls(
            (operation.name, operation.signature.dump_arguments(values))
            for operation, values in zip(self._operations, arguments[_CALLS], strict=True)
        )

    def load_arguments(self, recorded: Mapping[str, JsonValue]) -> dict[str, Any]:
        """Read recorded calls with the current types, in the form that `dump_arguments` takes.

        Raises:
            pydantic.ValidationError: the recorded calls are different ones, or do not fit the current types.
        """
        calls = calls_in(recorded)
        if [name for name, _ in calls] != [operation.name for operation in self._operations]:
            raise _unfit(f"the calls are {', '.join(name for name, _ in calls)}", dict(recorded))
        return {
            _CALLS: [
                operation.signature.load_arguments(values)
                for operation, (_, values) in zip(self._operations, calls, strict=True)
            ]
        }

    def dump_result(self, result: Any) -> JsonValue:
        """Return the calls' results as a list.

        Raises:
            ResultInvalid: a result is not what its operation declares.
        """
        return [
            result_as_json(operation.name, operation.signature, returned)
            for operation, returned in zip(self._operations, result, strict=True)
        ]

    def load_result(self, recorded: JsonValue) -> Any:
        """Read recorded results with the current types, as a tuple. A skipped step has None for each call.

        Raises:
            pydantic.ValidationError: the results do not fit the current types.
        """
        results = [None] * len(self._operations) if recorded is None else recorded
        if not isinstance(results, list) or len(results) != len(self._operations):
            raise _unfit("there is not one result for each call", recorded)
        return tuple(
            operation.signature.load_result(value) for operation, value in zip(self._operations, results, strict=True)
        )


@dataclass(eq=False, kw_only=True)
class AtomicOperation(Operation[..., tuple[Any, ...]]):
    """The operation of an atomic step. `atomic_operation` creates it for the step's calls."""

    operations: tuple[AnyOperation, ...] = ()
    """The operations of the calls, in order."""

    @property
    def kind(self) -> str:
        """The recorded kind of the step. A step that contains only queries is a query, because it has no effect."""
        return "query" if self.operations and self.reversal is Reversal.NOTHING else "atomic"

    @cached_property
    def signature(self) -> Signature:
        """The signature, in which each call uses its own operation's types."""
        return _Signature(self.operations)


class Atomically(OperationCall[tuple[Any, ...]]):
    """The calls of one atomic step. `saga.execute_atomically` runs it, and `RecordingSaga.calls` contains it.

    Raises:
        UsageError: an argument is not a call, or a call cannot share a transaction with others.
    """

    __slots__ = ("calls",)

    calls: tuple[OperationCall[Any], ...]

    def __init__(self, *calls: OperationCall[Any]) -> None:
        for call in calls:
            _check_call(call)
        databases = {call.operation.database for call in calls}
        if len(databases) > 1:
            raise UsageError(
                f"one atomic step has operations of the databases {', '.join(sorted(databases))}, but a transaction "
                "has only one database: use one step for each database, or `execute_all`"
            )
        operation = atomic_operation(tuple(call.operation for call in calls))
        arguments = recorded_calls((call.operation.name, dict(call.arguments)) for call in calls)
        for name, value in {"operation": operation, "arguments": arguments, "calls": calls}.items():
            object.__setattr__(self, name, value)  # because a call is frozen
        self.__post_init__()

    def __repr__(self) -> str:
        return f"Atomically({', '.join(repr(call) for call in self.calls)})"


@lru_cache(maxsize=512)
def atomic_operation(operations: tuple[AnyOperation, ...]) -> AtomicOperation:
    """Return the operation of a step that calls these operations in order. The type adapters are built once."""
    return AtomicOperation(
        _body=_calls_nothing,
        name="saga.atomic",
        module=__name__,
        source=Source("", 0),
        reversal=_reversal([operation.reversal for operation in operations]),
        reason=next((operation.reason for operation in operations if operation.reason is not None), None),
        deadline=max((operation.deadline for operation in operations), default=PIVOT.deadline),
        retry=strictest([operation.retry for operation in operations]),
        never_retry=tuple(dict.fromkeys(kind for operation in operations for kind in operation.never_retry)),
        undo=Compensation(body=_undoes_nothing, name=UNDO_ATOMIC, source=Source("", 0)),
        database=next((operation.database for operation in operations), HOME),
        operations=operations,
    )


def recorded_calls(calls: Any) -> dict[str, JsonValue]:
    """Convert pairs of an operation's name and its arguments to the step's arguments."""
    return {_CALLS: [{"operation": name, "arguments": arguments} for name, arguments in calls]}


def calls_in(arguments: Mapping[str, JsonValue]) -> list[tuple[str, dict[str, JsonValue]]]:
    """Return the calls in a step's arguments, in order, each as an operation's name and its arguments.

    Raises:
        pydantic.ValidationError: the arguments do not contain calls.
    """
    try:
        calls = cast(list[dict[str, Any]], arguments[_CALLS])
        return [(str(call["operation"]), dict(call["arguments"])) for call in calls]
    except (KeyError, TypeError, ValueError):
        raise _unfit("no list of calls", dict(arguments)) from None


def names_in(operation: str, arguments: Mapping[str, JsonValue]) -> tuple[str, ...]:
    """Return the names of the operations that a step runs: one, or those of its calls if it is atomic."""
    return tuple(name for name, _ in calls_in(arguments)) if operation == ATOMIC.name else (operation,)


def named(operation: str, arguments: Mapping[str, JsonValue]) -> str:
    """Return a step's operations as text, for example `account.withdraw, account.deposit` for an atomic step."""
    return ", ".join(names_in(operation, arguments))


def _check_call(call: object) -> None:
    if not isinstance(call, OperationCall):
        raise UsageError(
            "`saga.execute_atomically` takes calls, as in `saga.execute_atomically(withdraw(...), "
            f"deposit(...))`, not {type(call).__name__}"
        )
    operation = cast(Any, call).operation
    if isinstance(operation, ExternalOperation):
        raise UsageError(
            f"{operation.name} calls an external service, which no transaction can roll back, so it cannot be part of "
            "an atomic step: run it with its own `execute`"
        )
    if isinstance(operation, AtomicOperation):
        raise UsageError("an atomic step is inside another one: pass all the calls to one `saga.execute_atomically`")
    if operation.name == PIVOT.name:
        raise UsageError("the pivot cannot be part of an atomic step: `await saga.pivot()` before or after it")


def _reversal(of_calls: Sequence[Reversal]) -> Reversal:
    """Return the reversal of the whole step: irreversible if one call is, otherwise compensated if one call is.

    Next to an irreversible call, the others are never undone: either none of the calls is done, or all of them are, and
    then the saga can no longer be undone.
    """
    order = (Reversal.IRREVERSIBLE, Reversal.COMPENSATED, Reversal.RETRIABLE)
    return next((reversal for reversal in order if reversal in of_calls), Reversal.NOTHING)


def _unfit(why: str, value: Any) -> ValidationError:
    fault = PydanticCustomError("atomic_step", cast(Any, why.replace("{", "(").replace("}", ")")))
    return ValidationError.from_exception_data("atomic step", [{"type": fault, "loc": (_CALLS,), "input": value}])


async def _calls_nothing(tx: Transaction, /, *_: Any, **__: Any) -> tuple[Any, ...]:
    """Placeholder that never runs, because the store runs the calls."""
    return ()


async def _undoes_nothing(tx: Transaction) -> None:
    """Placeholder that never runs, because the store runs the calls' compensations."""


ATOMIC = atomic_operation(())
"""The operation of an atomic step without calls, for what is the same in every atomic step, such as activity names."""
