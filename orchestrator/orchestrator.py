"""The orchestrator: the class an author writes for one business process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from types import UnionType
from typing import Any, ClassVar, Generic, TypeVar, Union, get_args, get_origin

from orchestrator.event import DomainEvent, FailureEvent
from orchestrator.saga import Saga

Requested = TypeVar("Requested", bound=DomainEvent)
Completed = TypeVar("Completed", bound=DomainEvent)
Failed = TypeVar("Failed", bound=FailureEvent)


class Orchestrator(ABC, Generic[Requested, Completed, Failed]):
    """One event in, a completed or a failed event out, across domains.

    A subclass names its three events and implements `handle`. The worker finds its file, checks it, and registers it as
    a Temporal workflow with the class's name. An instance lives for one saga.

        class MoneyTransfer(Orchestrator[MoneyTransferRequested, MoneyTransferCompleted, MoneyTransferFailed]):
            async def handle(self, event: MoneyTransferRequested, saga: Saga) -> MoneyTransferCompleted:
                await saga.execute(account.withdraw(event.user_id, event.from_account_id, event.amount))
                ...

    Several event types may start it, each event as its own saga: `Orchestrator[OrderPlaced | OrderChanged, ...]`, with
    `handle(self, event: OrderPlaced | OrderChanged, saga: Saga)`.
    """

    requests: ClassVar[tuple[type[DomainEvent], ...]]
    """The event types that start it, one or several."""
    completed: ClassVar[type[DomainEvent]]
    """The event that a completed saga ends with."""
    failed: ClassVar[type[FailureEvent]]
    """The event that an undone saga ends with."""
    awaited: ClassVar[tuple[type[DomainEvent], ...]] = ()
    """Events that `saga.wait_for` may wait for."""
    partitions: ClassVar[int | None] = None
    """How many long-lived executions (partitions) drive its sagas, many at a time; None for one execution per saga.
    Partitions increase throughput and, with `ordering_key`, keep the order of arrival. See docs/partitions.md before
    changing the number."""
    deadline: ClassVar[timedelta | None] = None
    """How long a saga may go forward before it is undone as `saga.deadline_exceeded`; None for no limit. Past the pivot
    the deadline does not apply."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__dict__.get("__orig_bases__", ()):
            arguments = _arguments_of(base)
            if len(arguments) != 3:
                continue
            first, *ends = arguments
            requests = get_args(first) if get_origin(first) in (Union, UnionType) else (first,)
            if all(isinstance(argument, type) for argument in (*requests, *ends)):
                cls.requests = requests
                cls.completed, cls.failed = ends

    def locks(self, event: Requested) -> Sequence[str]:
        """Return the keys that no other saga may hold while this one is open, as in `[f"user/{event.user_id}"]`.

        Sagas with the same key run one after the other, even if they belong to different orchestrators. This must be a
        pure function of the event, and a later version must return the same keys for the same event.
        """
        return ()

    def ordering_key(self, event: Requested) -> str | None:
        """Return a key whose events are handled in order of arrival, or None. It is a lock, like those of `locks`."""
        return None

    @abstractmethod
    async def handle(self, event: Requested, saga: Saga) -> Completed:
        """Run the process: call operations in order, and return the completed event.

        It may run again from its first line and must then make the same calls, so it takes time, randomness and ids
        from `saga`. It must not read a clock or do I/O.

        Returns:
            The completed event.

        Raises:
            Refused: a rule that spans domains is broken, or an operation refused. All completed steps are undone.
        """


def is_base(orchestrator: type[Orchestrator[Any, Any, Any]]) -> bool:
    """Whether a class is only a base class: it is generic, or has `ABC` among its bases."""
    return bool(getattr(orchestrator, "__parameters__", ())) or ABC in orchestrator.__bases__


def _arguments_of(base: Any) -> tuple[Any, ...]:
    """Return the type arguments that a base class passes to `Orchestrator`, also through generic classes in between."""
    origin: Any = get_origin(base)
    if origin is Orchestrator:
        return get_args(base)
    parameters, bases = (getattr(origin, name, ()) for name in ("__parameters__", "__orig_bases__"))
    given = dict(zip(parameters, get_args(base), strict=False))
    for inner in bases:
        free: tuple[Any, ...] = getattr(inner, "__parameters__", ())
        if (
            free
            and all(one in given for one in free)
            and (found := _arguments_of(inner[tuple(given[one] for one in free)]))
        ):
            return found
    return ()
