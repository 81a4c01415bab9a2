"""Operations, which authors declare, and the descriptions of calls to them.

An operation becomes one Temporal activity and runs in one database transaction. Calling it in `handle` runs nothing: it
returns the description of a call, which `saga.execute` runs. Definition faults are collected and reported together by
`orchestrator.definition`; nothing here raises them.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any, Concatenate, Generic, NoReturn, ParamSpec, TypeVar, overload

from pydantic import JsonValue

from orchestrator.definition.main_module import importable_name
from orchestrator.definition.source import Source
from orchestrator.errors import Unrecordable, UsageError
from orchestrator.protocol.exception_groups import ungrouped
from orchestrator.protocol.messages.envelope import CONTENT_LIMIT, canonical
from orchestrator.retry import DEFAULT_RETRY, ErrorTypes, Retry
from orchestrator.transaction import Transaction
from orchestrator.values.signature import Signature, name_of_function

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

HOME = "home"
"""The name of the home database. Operations that name no other database run there."""
DEFAULT_DEADLINE = timedelta(minutes=5)
"""How long a step is retried before the saga is undone, unless its operation sets another deadline."""


class Reversal(StrEnum):
    """What happens to the effect of a step when its saga is undone."""

    COMPENSATED = "compensated"
    """The compensation runs."""
    NOTHING = "nothing"
    """Nothing: a query has no effect."""
    RETRIABLE = "retriable"
    """Nothing: the step comes after the pivot, where nothing is undone, and is retried until it succeeds."""
    IRREVERSIBLE = "irreversible"
    """The effect cannot be undone. Once the step is done, the saga always continues to its end."""


@dataclass(frozen=True, slots=True, eq=False)
class OperationCall(Generic[R_co]):
    """The description of a call to an operation; nothing has run yet.

    Two calls are equal if their operations and arguments are equal, so that tests can compare `RecordingSaga.calls`.
    """

    operation: Operation[..., R_co]
    arguments: Mapping[str, JsonValue]
    """All arguments by name, as JSON."""

    size: int = field(init=False, repr=False)
    """The size of the recorded arguments, in bytes."""

    def __post_init__(self) -> None:
        try:
            size = len(canonical(dict(self.arguments)).encode())
        except ValueError as fault:
            raise Unrecordable(f"an argument of {self.operation.name} cannot be written as JSON: {fault}") from fault
        object.__setattr__(self, "size", size)  # the dataclass is frozen

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OperationCall):
            return NotImplemented
        return (
            self.operation.name == other.operation.name  # pyright: ignore[reportUnknownMemberType]
            and self.arguments == other.arguments
        )

    def __hash__(self) -> int:
        return hash((self.operation.name, canonical(dict(self.arguments))))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.operation.name}({shown})"

    def __await__(self) -> NoReturn:
        short = self.operation.name.rpartition(".")[2]
        raise UsageError(
            f"`{short}(...)` only describes a call, and nothing has run. You want: `await saga.execute({short}(...))`"
        )


@dataclass(frozen=True, slots=True)
class Compensation:
    """The function that undoes an operation. It takes any of the operation's parameters by name, and `result`."""

    body: Callable[..., Awaitable[None]]
    name: str
    source: Source
    retry: Retry = DEFAULT_RETRY
    """The waits between its attempts, whose number is not limited."""

    @property
    def wants(self) -> tuple[str, ...]:
        """The names of its parameters, apart from the transaction."""
        return tuple(list(inspect.signature(self.body).parameters)[1:])


CompensationBody = TypeVar("CompensationBody", bound=Callable[..., Awaitable[None]])

_described: ContextVar[list[OperationCall[Any]] | None] = ContextVar("described", default=None)


@contextmanager
def describing() -> Generator[list[OperationCall[Any]]]:
    """Collect every call described in this block, so that a driver finds one that `handle` forgot to execute."""
    calls: list[OperationCall[Any]] = []
    token = _described.set(calls)
    try:
        yield calls
    finally:
        # Temporal closes an evicted execution in another context, where there is nothing to reset.
        with suppress(ValueError):
            _described.reset(token)


@dataclass(eq=False, kw_only=True)
class Operation(Generic[P, R]):
    """An operation as its author declared it. Calling it in `handle` describes a step."""

    _body: Callable[Concatenate[Transaction, P], Awaitable[R]]
    name: str
    """The activity type, from module and function: `account.withdraw`."""
    module: str
    source: Source
    reversal: Reversal
    reason: str | None = None
    """Why the operation cannot be undone, if it is irreversible."""
    deadline: timedelta = DEFAULT_DEADLINE
    """How long a step is retried before the saga is undone."""
    retry: Retry = DEFAULT_RETRY
    """The waits between its attempts, and how many it has."""
    never_retry: ErrorTypes = ()
    """The errors after which the step fails for good."""
    database: str = HOME
    """The database it runs in: `home`, or a name from `ORCHESTRATOR_DATABASES`."""
    undo: Compensation | None = None
    surplus: list[Compensation] = field(default_factory=list[Compensation])
    """Further compensations, which are a definition fault."""
    faults: list[str] = field(default_factory=list[str])
    """Faults found while decorating, kept so that all definition faults are reported together."""

    @property
    def kind(self) -> str:
        """The kind that a step's row records: `operation`, `query`, `external` or `pivot`."""
        if self.name == PIVOT.name:
            return "pivot"
        return "query" if self.reversal is Reversal.NOTHING else "operation"

    @property
    def attempt_limit(self) -> timedelta | None:
        """How long one attempt may take, if it runs outside of a database transaction; otherwise None."""
        return None

    @cached_property
    def signature(self) -> Signature:
        """The types of parameters and result."""
        return Signature(self._body)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> OperationCall[R]:
        """Describe a call. Nothing runs.

        Raises:
            TypeError: arguments are missing or too many.
            pydantic.ValidationError: an argument is not of its declared type.
            ValueError: an argument cannot be recorded and read back unchanged, or the arguments are too large.
        """
        call = OperationCall(self, self.signature.dump_arguments(self._given(args, kwargs)))
        if call.size > CONTENT_LIMIT:
            raise Unrecordable(
                f"the arguments of {self.name} take {call.size:,} bytes and the limit is {CONTENT_LIMIT:,}. Store "
                "large values in a table, and pass their ids"
            )
        if (described := _described.get()) is not None:
            described.append(call)
        return call

    def _given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments by name."""
        names = self.signature.positional
        if names and not kwargs and len(args) == len(names):
            return dict(zip(names, args, strict=True))
        try:
            bound = self.signature.whole.bind(None, *args, **kwargs)
        except TypeError as fault:
            raise TypeError(f"{self.name}: {fault}") from None
        return dict(list(bound.arguments.items())[1:])

    async def body(self, tx: Transaction, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function in a transaction. Unit tests and the engine call this.

        Raises:
            Refused: the operation refused.
        """
        with ungrouped():
            return await self._body(tx, *args, **kwargs)

    async def compensate(self, tx: Transaction, arguments: Mapping[str, JsonValue], result: JsonValue) -> None:
        """Run the compensation with the step's recorded arguments and result."""
        if self.undo is None:
            raise UsageError(f"{self.name} has no compensation")
        await self.undo.body(tx, **self.recorded(self.undo.wants, arguments, result))

    def recorded(
        self, wanted: Sequence[str], arguments: Mapping[str, JsonValue], result: JsonValue = None
    ) -> dict[str, Any]:
        """Return the requested recorded arguments by name, and `result`, read with the current types."""
        known = self.signature.load_arguments(arguments)
        for name, parameter in self.signature.parameters.items():
            if parameter.default is not parameter.empty:
                known.setdefault(name, parameter.default)
        if "result" in wanted:
            known["result"] = self.signature.load_result(result)
        return {name: known[name] for name in wanted}

    @overload
    def compensation(self, body: CompensationBody, /) -> CompensationBody: ...
    @overload
    def compensation(self, /, *, retry: Retry) -> Callable[[CompensationBody], CompensationBody]: ...
    def compensation(
        self, body: CompensationBody | None = None, /, *, retry: Retry = DEFAULT_RETRY
    ) -> CompensationBody | Callable[[CompensationBody], CompensationBody]:
        """Declare the function that undoes this operation: `@withdraw.compensation` above an `async def`.

        The function takes the transaction first, then any of the operation's parameters by name, and `result`. It is
        retried until it succeeds, with the waits of `@withdraw.compensation(retry=Retry(...))`.
        """

        def declare(undoing: CompensationBody) -> CompensationBody:
            made = Compensation(body=undoing, name=activity_name(undoing), source=Source.of(undoing), retry=retry)
            if self.undo is None:
                self.undo = made
            else:
                self.surplus.append(made)
            return undoing

        return declare if body is None else declare(body)


Body = Callable[Concatenate[Transaction, P], Awaitable[R]]


@overload
def operation(body: Body[P, R], /) -> Operation[P, R]: ...
@overload
def operation(
    *,
    irreversible: str = ...,
    retriable: bool = ...,
    deadline: timedelta = ...,
    retry: Retry = ...,
    never_retry: ErrorTypes = ...,
    database: str = ...,
) -> Callable[[Body[P, R]], Operation[P, R]]: ...
def operation(
    body: Body[P, R] | None = None,
    /,
    *,
    irreversible: str | None = None,
    retriable: bool = False,
    deadline: timedelta = DEFAULT_DEADLINE,
    retry: Retry = DEFAULT_RETRY,
    never_retry: ErrorTypes = (),
    database: str = HOME,
) -> Operation[P, R] | Callable[[Body[P, R]], Operation[P, R]]:
    """Declare an `async def` as an operation: one activity, one transaction, effects exactly once.

    Args:
        irreversible: why it cannot be undone. Once done, it is the saga's pivot: the saga always continues to its end.
        retriable: whether it comes after the pivot, where it is retried until it succeeds and needs no compensation.
        deadline: how long it is retried before the saga is undone. Past the pivot it is retried without end.
        retry: the waits between its attempts, and how many it has before the saga is undone.
        never_retry: the errors after which the saga is undone at once.
        database: the name of the database it runs in, if its domain has its own (`ORCHESTRATOR_DATABASES`).
    """
    return _decorate(
        "operation",
        body,
        reversal_of(irreversible, retriable=retriable),
        reason=irreversible,
        deadline=deadline,
        retry=retry,
        never_retry=never_retry,
        database=database,
        retriable=retriable,
    )


def reversal_of(irreversible: str | None, *, retriable: bool) -> Reversal:
    """Return how a step is undone, according to its decorator's options."""
    if irreversible is not None:
        return Reversal.IRREVERSIBLE
    return Reversal.RETRIABLE if retriable else Reversal.COMPENSATED


@overload
def query(body: Body[P, R], /) -> Operation[P, R]: ...
@overload
def query(
    *, deadline: timedelta = ..., retry: Retry = ..., never_retry: ErrorTypes = ..., database: str = ...
) -> Callable[[Body[P, R]], Operation[P, R]]: ...
def query(
    body: Body[P, R] | None = None,
    /,
    *,
    deadline: timedelta = DEFAULT_DEADLINE,
    retry: Retry = DEFAULT_RETRY,
    never_retry: ErrorTypes = (),
    database: str = HOME,
) -> Operation[P, R] | Callable[[Body[P, R]], Operation[P, R]]:
    """Declare an `async def` that only reads. Its result is recorded, so that a resumed saga sees the same one."""
    return _decorate(
        "query",
        body,
        Reversal.NOTHING,
        reason=None,
        deadline=deadline,
        retry=retry,
        never_retry=never_retry,
        database=database,
    )


def _decorate(
    decorator: str,
    above: Body[P, R] | None,
    reversal: Reversal,
    *,
    reason: str | None,
    retriable: bool = False,
    **options: Any,
) -> Operation[P, R] | Callable[[Body[P, R]], Operation[P, R]]:
    """Declare the decorated function, or return the decorator. Faults go to `Operation.faults`."""

    def declare(body: Body[P, R]) -> Operation[P, R]:
        made = Operation(
            _body=body,
            name=activity_name(body),
            module=getattr(body, "__module__", "?"),
            source=Source.of(body),
            reversal=reversal,
            reason=reason,
            **options,
        )
        made.faults += faults_of_use(decorator, above, irreversible=reason, retriable=retriable)
        return made

    return declare(above) if callable(above) else declare


def faults_of_use(decorator: str, above: object, *, irreversible: str | None, retriable: bool) -> list[str]:
    """Return what is wrong with how a decorator was used."""
    found: list[str] = []
    if above is not None and not callable(above):
        found.append(
            f'@{decorator}({above!r}) takes its options by name: @{decorator}(irreversible="why it cannot be undone")'
        )
    if irreversible is not None and retriable:
        found.append(
            f"@{decorator} has both irreversible and retriable, but only one is possible: an irreversible step is "
            "the pivot, and a retriable one comes after it"
        )
    return found


async def _nothing(tx: Transaction) -> None:
    """Do nothing: the pivot has no effect."""


PIVOT: Operation[[], None] = Operation(
    _body=_nothing,
    name="saga.pivot",
    module=__name__,
    source=Source("", 0),
    reversal=Reversal.IRREVERSIBLE,
    reason="it is the pivot",
)
"""The engine's operation behind `saga.pivot()`. It has no effect, and its step cannot be undone."""


def activity_name(body: Callable[..., Any]) -> str:
    """Return a function's activity type: the last part of its module, and its name."""
    return f"{importable_name(getattr(body, '__module__', '?')).rpartition('.')[2]}.{name_of_function(body)}"
