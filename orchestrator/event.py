"""Domain events: what happened, as a typed and versioned contract.

The event half of the engine: knows pydantic alone, so that contracts can be shared with programs that run no saga.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, JsonValue, model_validator

Fields = dict[str, JsonValue]
"""An event's fields as JSON."""
Upcast = Callable[[Fields], Fields]
"""Makes the fields of one version into those of the next."""

_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def event_type_of(class_name: str) -> str:
    """`MoneyTransferRequested` becomes `MONEY_TRANSFER_REQUESTED`."""
    return _WORDS.sub("_", class_name).upper()


class Contract(BaseModel):
    """A value inside an event: strict, frozen, nothing extra, and only text that every database can hold.

    Strict means that `10.0`, `1e2`, `true` and `"10"` are no integers.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _text_can_be_stored(self) -> Self:
        for field in type(self).model_fields:
            fault = unstorable(getattr(self, field))
            if fault:
                raise ValueError(f"{field}: {fault}, which no database column holds")
        return self


class DomainEvent(Contract):
    """Something that happened, or was asked for, in one domain.

    The type is the class's name in capitals (`MONEY_TRANSFER_REQUESTED`); `version` counts changes of its fields.
    """

    version: ClassVar[int] = 1
    """Version of the contract; raise it when fields change their meaning."""

    @classmethod
    def type_name(cls) -> str:
        """The type as it travels, e.g. `MONEY_TRANSFER_REQUESTED`."""
        return event_type_of(cls.__name__)

    @classmethod
    def example(cls) -> Self | None:
        """A valid event of this type for `publish --example` and the docs, or None if its author gave none."""
        return None

    @classmethod
    def scheduled(cls, at: datetime, arguments: Mapping[str, JsonValue]) -> tuple[str, Self]:
        """What a schedule publishes: an event id, which must be the same whenever the same is due, and the event.

        Args:
            at: the moment that the schedule named, not the later one at which somebody came to it.
            arguments: what whoever made the schedule gave it.

        Raises:
            NotScheduled: no schedule publishes this type.
        """
        raise NotScheduled(f"{cls.__name__} says no `scheduled(at, arguments)`")


class NotScheduled(Exception):
    """An event that says nothing of schedules was asked for by one."""


def upcaster(from_version: int) -> Callable[[Upcast], Upcast]:
    """Marks how fields of an old version become those of the next; run whenever such an event is read.

        class MoneyMoved(DomainEvent):
            version = 2
            amount: Money

            @staticmethod
            @upcaster(1)
            def _amount_has_a_currency(fields: Fields) -> Fields:
                return {**fields, "amount": {"amount_minor": fields["amount"], "currency": "USD"}}

    A pure function: the same fields give the same again, whenever and wherever.

    Args:
        from_version: the version of the fields that it takes; it returns those of the version after it.
    """

    def mark(upcast: Upcast) -> Upcast:
        upcast.__dict__[_MARK] = from_version
        return upcast

    return mark


_MARK = "upcasts_from"


def upcasters_of(event: type[DomainEvent]) -> Mapping[int, Upcast]:
    """An event's upcasters by the version that each begins with; what a subclass defines comes first."""
    found: dict[int, Upcast] = {}
    for base in reversed(event.__mro__):
        for value in vars(base).values():
            function: Any = value.__func__ if isinstance(value, staticmethod) else None
            version = getattr(function, _MARK, None)
            if version is not None:
                found[version] = function
    return found


class UndoneStep(Contract):
    """A step that had been done and was undone."""

    number: int
    """Place in the saga, from 1."""
    operation: str
    """For example `account.withdraw`."""
    compensation: str
    """For example `account.put_back`."""
    skipped: bool = False
    """A person settled it by hand instead; the saga's row says who and why."""


class FailureEvent(DomainEvent):
    """How a saga that did not complete is told to the world. The engine fills it; a subclass only names it."""

    event_id: str
    """Id of the triggering event."""
    event_type: str
    """Type of the triggering event."""
    event: dict[str, JsonValue]
    """The triggering event's fields, as it arrived."""
    event_version: int = 1
    """Version of the triggering event's contract."""
    error_code: str
    """Stable, in the form `domain.reason`."""
    message: str
    """For a person."""
    undone: tuple[UndoneStep, ...]
    """Steps undone, in the order in which they were undone: the last step first."""


def unstorable(value: Any) -> str | None:
    """Why no database could hold the text in this value, or None."""
    match value:
        case str():
            if "\x00" in value:
                return "the text holds a NUL character"
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                return "the text holds a lone surrogate"
        case dict():
            for key, inner in value.items():  # pyright: ignore[reportUnknownVariableType]
                fault = unstorable(key) or unstorable(inner)
                if fault:
                    return fault
        case list() | tuple() | set() | frozenset():
            for inner in value:  # pyright: ignore[reportUnknownVariableType]
                fault = unstorable(inner)
                if fault:
                    return fault
        case _:
            pass
    return None
