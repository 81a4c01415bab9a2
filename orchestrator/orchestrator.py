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

    A subclass names its three events and writes `handle`. Dropped in as a file it is found, checked and registered
    as a Temporal workflow of its class's name. An instance lives for one saga.

        class MoneyTransfer(Orchestrator[MoneyTransferRequested, MoneyTransferCompleted, MoneyTransferFailed]):
            async def handle(self, event: MoneyTransferRequested, saga: Saga) -> MoneyTransferCompleted:
                await saga.execute(account.withdraw(event.user_id, event.from_account_id, event.amount))
                ...

    Several events may start it, each a saga of its own: `Orchestrator[OrderPlaced | OrderChanged, ...]`, with
    `handle(self, event: OrderPlaced | OrderChanged, saga: Saga)`.
    """

    requests: ClassVar[tuple[type[DomainEvent], ...]]
    """The events that start it, one or several."""
    completed: ClassVar[type[DomainEvent]]
    """The event it ends with when all went well."""
    failed: ClassVar[type[FailureEvent]]
    """The event it ends with when it was undone."""
    awaited: ClassVar[tuple[type[DomainEvent], ...]] = ()
    """Events that `saga.wait_for` may wait for."""
    partitions: ClassVar[int | None] = None
    """How many long-lived executions carry its sagas, many at a time; None: an execution for each saga. For throughput,
    and with `ordering_key` for strict order of arrival. See docs/partitions.md before changing it."""
    deadline: ClassVar[timedelta | None] = None
    """How long a saga may go forward before it is undone as `saga.deadline_exceeded`; None: as long as it takes.
    Past its pivot no deadline counts."""

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
        """Keys that nobody else may hold while this saga is open, as in `[f"user/{event.user_id}"]`.

        Sagas of one key go one after the other, whoever is first; of any orchestrator, for the key is all that counts.
        A pure function of the event: other code must not answer otherwise for the same event.
        """
        return ()

    def ordering_key(self, event: Requested) -> str | None:
        """A key whose events are handled in the order they came; it locks as those of `locks` do."""
        return None

    @abstractmethod
    async def handle(self, event: Requested, saga: Saga) -> Completed:
        """The process: which operations, in which order, with what.

        It may run again from the start, and must do the same then: time, chance and ids come from `saga`; it reads no
        clock and does no I/O of its own.

        Returns:
            The completed event.

        Raises:
            Refused: a rule that spans domains says no; or let an operation's pass. Everything done is undone.
        """


def is_base(orchestrator: type[Orchestrator[Any, Any, Any]]) -> bool:
    """Whether a class is there to be inherited from: it is generic, or names `ABC` among its bases."""
    return bool(getattr(orchestrator, "__parameters__", ())) or ABC in orchestrator.__bases__


def _arguments_of(base: Any) -> tuple[Any, ...]:
    """The arguments of `Orchestrator` that a base stands for, also by way of generic classes in between."""
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
