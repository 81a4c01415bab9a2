"""External operations: calls to services that do not take part in a database transaction.

An idempotency key replaces the transaction. It is the same on every attempt of a step, so that the service can
recognise a repeat (the model is Stripe's `Idempotency-Key`). The step is recorded as attempted before the call. If a
reply was lost or a worker died, it is unknown whether the call succeeded. Then the verification asks the service before
the call is repeated or undone.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from orchestrator.definition.source import Source
from orchestrator.operation import (
    DEFAULT_DEADLINE,
    Operation,
    activity_name,
    faults_of_use,
    reversal_of,
)
from orchestrator.protocol.exception_groups import ungrouped
from orchestrator.retry import DEFAULT_RETRY, ErrorTypes, Retry

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

DEFAULT_TIME_LIMIT = timedelta(seconds=10)
"""How long one call may take, unless its operation sets another limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalCall:
    """What an external operation receives instead of a transaction."""

    idempotency_key: str
    """The key to send with the request. It is the same on every attempt of a step; its compensation has another one."""
    event_id: str
    """The id of the event that started the saga."""
    event_time: datetime
    """When the event happened, in UTC."""
    attempt: int
    """The number of this attempt, from 1."""


@dataclass(frozen=True, slots=True)
class Confirmed(Generic[R_co]):
    """A verification's confirmation that the call succeeded, with its result."""

    result: R_co


@dataclass(frozen=True, slots=True)
class Verification:
    """The function that finds out whether a call succeeded. It takes any of the operation's parameters by name."""

    body: Callable[..., Awaitable[Confirmed[Any] | None]]
    source: Source

    @property
    def wants(self) -> tuple[str, ...]:
        """The names of its parameters, apart from the `ExternalCall`."""
        return tuple(list(inspect.signature(self.body).parameters)[1:])


VerificationBody = TypeVar("VerificationBody", bound=Callable[..., Awaitable[Any]])


@dataclass(eq=False, kw_only=True)
class ExternalOperation(Operation[P, R]):
    """An external operation as its author declared it. Calling it in `handle` describes a step."""

    time_limit: timedelta = DEFAULT_TIME_LIMIT
    """How long one call may take. An undo waits that long for a call that may still be running."""
    verify: Verification | None = None
    surplus_verifications: list[Verification] = field(default_factory=list[Verification])
    """Further verifications, which are a definition fault."""

    @property
    def kind(self) -> str:
        """The kind that a step's row records."""
        return "external"

    @property
    def attempt_limit(self) -> timedelta | None:
        """How long one attempt may take."""
        return self.time_limit

    async def body(self, call: ExternalCall, /, *args: P.args, **kwargs: P.kwargs) -> R:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the function. Unit tests and the engine call this.

        Raises:
            Refused: the service refused, and nothing happened there.
        """
        outside: Callable[..., Awaitable[R]] = self._body
        with ungrouped(is_external=True):
            return await outside(call, *args, **kwargs)

    def verification(self, body: VerificationBody) -> VerificationBody:
        """Declare the function that finds out whether a call succeeded, by `@charge_card.verification` above it.

        The function takes an `ExternalCall` with the operation's idempotency key, then any of its parameters by name.
        It returns `Confirmed(result)`, or None if nothing happened under this key and nothing is in progress.
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
    *,
    irreversible: str = ...,
    retriable: bool = ...,
    deadline: timedelta = ...,
    retry: Retry = ...,
    never_retry: ErrorTypes = ...,
    time_limit: timedelta = ...,
) -> Callable[[ExternalBody[P, R]], ExternalOperation[P, R]]: ...
def external_operation(
    body: ExternalBody[P, R] | None = None,
    /,
    *,
    irreversible: str | None = None,
    retriable: bool = False,
    deadline: timedelta = DEFAULT_DEADLINE,
    retry: Retry = DEFAULT_RETRY,
    never_retry: ErrorTypes = (),
    time_limit: timedelta = DEFAULT_TIME_LIMIT,
) -> ExternalOperation[P, R] | Callable[[ExternalBody[P, R]], ExternalOperation[P, R]]:
    """Declare an `async def` that calls an external service, with an idempotency key instead of a transaction.

    Args:
        irreversible: why it cannot be undone. Once done, it is the saga's pivot.
        retriable: whether it comes after the pivot, where it is retried until it succeeds and needs no compensation.
        deadline: how long it is retried before the saga is undone. Past the pivot it is retried without end.
        retry: the waits between its attempts, and how many it has before the saga is undone.
        never_retry: the errors after which the saga is undone at once. The call may have happened, which the
            verification finds out.
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
            retry=retry,
            never_retry=never_retry,
            time_limit=time_limit,
        )
        made.faults += faults_of_use("external_operation", body, irreversible=irreversible, retriable=retriable)
        return made

    return declare(body) if callable(body) else declare
