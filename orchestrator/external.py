"""External operations: calls of the outside world, which takes part in no transaction.

An idempotency key stands in place of the transaction: the same on every attempt of a step, so that the other side can
tell a repeat (Stripe's `Idempotency-Key` is the model). Before a call the step is recorded as attempted. When its fate
is unknown, a reply was lost or a worker died, the verification is asked: before it is called again, and before it is
undone.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from orchestrator.operation import (
    DEFAULT_DEADLINE,
    Operation,
    Source,
    activity_name,
    faults_of_use,
    reversal_of,
)
from orchestrator.protocol.exception_groups import ungrouped

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

DEFAULT_TIME_LIMIT = timedelta(seconds=10)
"""How long one call may take, if its operation does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalCall:
    """What an external operation is given instead of a transaction."""

    idempotency_key: str
    """The same on every attempt of this step; another for its compensation. Send it with the request."""
    event_id: str
    """Id of the event that started the saga."""
    event_time: datetime
    """When that event happened, in UTC."""
    attempt: int
    """From 1."""


@dataclass(frozen=True, slots=True)
class Confirmed(Generic[R_co]):
    """A verification's answer: the call took effect, and this is its result."""

    result: R_co


@dataclass(frozen=True, slots=True)
class Verification:
    """What tells whether a call took effect: any of the operation's parameters by name."""

    body: Callable[..., Awaitable[Confirmed[Any] | None]]
    source: Source

    @property
    def wants(self) -> tuple[str, ...]:
        """Names it takes, without the call."""
        return tuple(list(inspect.signature(self.body).parameters)[1:])


VerificationBody = TypeVar("VerificationBody", bound=Callable[..., Awaitable[Any]])


@dataclass(eq=False, kw_only=True)
class ExternalOperation(Operation[P, R]):
    """An external operation as its author declared it. Call it in `handle` to describe a step."""

    time_limit: timedelta = DEFAULT_TIME_LIMIT
    """How long one call may take. An undo waits as long for a call whose end nobody has seen."""
    verify: Verification | None = None
    surplus_verifications: list[Verification] = field(default_factory=list[Verification])
    """Verifications declared after the first, which is a fault."""

    @property
    def kind(self) -> str:
        """What its step is recorded as."""
        return "external"

    @property
    def attempt_limit(self) -> timedelta | None:
        """How long one attempt may take."""
        return self.time_limit

    async def body(self, call: ExternalCall, /, *args: P.args, **kwargs: P.kwargs) -> R:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the function itself: for unit tests, and for the engine.

        Raises:
            Refused: the other side said no, and nothing happened.
        """
        outside: Callable[..., Awaitable[R]] = self._body
        with ungrouped(is_external=True):
            return await outside(call, *args, **kwargs)

    def verification(self, body: VerificationBody) -> VerificationBody:
        """Declare what tells whether a call took effect: `@charge_card.verification` above an `async def`.

        The function takes an `ExternalCall` with the operation's own idempotency key, then any of its parameters by
        name. It answers `Happened(result)`, or None: nothing happened under this key, and nothing is under way.
        """
        made = Verification(body=body, source=Source.of(body))
        if self.verify is None:
            self.verify = made
        else:
            self.surplus_verifications.append(made)
        return body


ExternalBody = Callable[Concatenate[ExternalCall, P], Awaitable[R]]


@overload
def external_operation(body: ExternalBody[P, R], /) -> ExternalOperation[P, R]: ...
@overload
def external_operation(
    *, irreversible: str = ..., retriable: bool = ..., deadline: timedelta = ..., time_limit: timedelta = ...
) -> Callable[[ExternalBody[P, R]], ExternalOperation[P, R]]: ...
def external_operation(
    body: ExternalBody[P, R] | None = None,
    /,
    *,
    irreversible: str | None = None,
    retriable: bool = False,
    deadline: timedelta = DEFAULT_DEADLINE,
    time_limit: timedelta = DEFAULT_TIME_LIMIT,
) -> ExternalOperation[P, R] | Callable[[ExternalBody[P, R]], ExternalOperation[P, R]]:
    """Declare an `async def` that calls the outside world: one activity, an idempotency key instead of a transaction.

    Args:
        irreversible: why it cannot be undone. Done, it is the saga's pivot.
        retriable: it has no compensation as it comes after the pivot, where it is tried until it is done.
        deadline: how long it is tried before the saga turns to undoing; past the pivot without end.
        time_limit: how long one call may take.
    """

    def declare(outside: ExternalBody[P, R]) -> ExternalOperation[P, R]:
        called: Callable[..., Awaitable[R]] = outside
        made = ExternalOperation[P, R](
            _body=called,
            name=activity_name(called),
            module=getattr(called, "__module__", "?"),
            source=Source.of(called),
            reversal=reversal_of(irreversible, retriable=retriable),
            reason=irreversible,
            deadline=deadline,
            time_limit=time_limit,
        )
        made.faults += faults_of_use("external_operation", body, irreversible=irreversible, retriable=retriable)
        return made

    return declare(body) if callable(body) else declare
