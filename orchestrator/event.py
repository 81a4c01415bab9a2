"""Domain events: what happened, as a typed and versioned contract.

This module depends on pydantic alone, so that contracts can be shared with programs that run no saga.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

Fields = dict[str, JsonValue]
"""An event's fields as JSON."""
Upcast = Callable[[Fields], Fields]
"""A function that turns the fields of one version into those of the next."""

_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def event_type_of(class_name: str) -> str:
    """Return the event type of a class name: `MoneyTransferRequested` becomes `MONEY_TRANSFER_REQUESTED`."""
    return _WORDS.sub("_", class_name).upper()


class Contract(BaseModel):
    """A value inside an event: strict, frozen, without extra fields, and with text that every database can store.

    Strict means that `10.0`, `1e2`, `true` and `"10"` are not accepted as integers.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _text_can_be_stored(self) -> Self:
        for field in type(self).model_fields:
            fault = unstorable(getattr(self, field))
            if fault:
                raise ValueError(f"{field}: {fault}, which no database column can store")
        return self


C = TypeVar("C", bound=Contract)


def read_details(details: Mapping[str, JsonValue] | None, contract: type[C]) -> C | None:
    """Return a refusal's details as a contract; None if there are none.

    Raises:
        pydantic.ValidationError: the details are those of another contract.
    """
    return None if details is None else contract.model_validate_json(json.dumps(dict(details)), strict=True)


class DomainEvent(Contract):
    """Something that happened in one domain, or was requested there.

    The type is the class's name in capitals (`MONEY_TRANSFER_REQUESTED`); `version` counts changes of its fields.
    """

    version: ClassVar[int] = 1
    """Version of the contract. Increase it when fields change their meaning."""

    @classmethod
    def type_name(cls) -> str:
        """Return the event type that is sent, e.g. `MONEY_TRANSFER_REQUESTED`."""
        return event_type_of(cls.__name__)

    @classmethod
    def example(cls) -> Self | None:
        """Return a valid event for `publish --example` and the catalog, or None if the author provides none."""
        return None

    @classmethod
    def scheduled(cls, at: datetime, arguments: Mapping[str, JsonValue]) -> tuple[str, Self]:
        """Return the event id and the event that a schedule publishes.

        The id must be the same for every run of the same scheduled time, so that a repeated run publishes a duplicate.

        Args:
            at: the scheduled time, even if the run happens later.
            arguments: the arguments that the schedule was created with.

        Raises:
            NotScheduled: no schedule publishes this type.
        """
        raise NotScheduled(f"{cls.__name__} cannot be scheduled, because it does not define `scheduled(at, arguments)`")


class NotScheduled(Exception):
    """A schedule refers to an event type that does not define `scheduled`."""


def upcaster(from_version: int) -> Callable[[Upcast], Upcast]:
    """Mark a function that converts the fields of one version to the next; it runs whenever such an event is read.

        class MoneyMoved(DomainEvent):
            version = 2
            amount: Money

            @staticmethod
            @upcaster(1)
            def _amount_has_a_currency(fields: Fields) -> Fields:
                return {**fields, "amount": {"amount_minor": fields["amount"], "currency": "USD"}}

    The function must be pure: the same fields always give the same result.

    Args:
        from_version: the version of the fields that the function takes. It returns those of the version after it.
    """

    def mark(upcast: Upcast) -> Upcast:
        upcast.__dict__[_MARK] = from_version
        return upcast

    return mark


_MARK = "upcasts_from"


def upcasters_of(event: type[DomainEvent]) -> Mapping[int, Upcast]:
    """Return an event's upcasters by the version they start from. A subclass overrides its base class."""
    found: dict[int, Upcast] = {}
    for base in reversed(event.__mro__):
        for value in vars(base).values():
            function: Any = value.__func__ if isinstance(value, staticmethod) else None
            version = getattr(function, _MARK, None)
            if version is not None:
                found[version] = function
    return found


class UndoneStep(Contract):
    """A completed step that was undone."""

    number: int
    """The step's number in the saga, from 1."""
    operation: str
    """The operation's name, for example `account.withdraw`."""
    compensation: str
    """The compensation's name, for example `account.put_back`."""
    skipped: bool = False
    """Whether an operator skipped the compensation. The saga's row records who skipped it, and why."""


class FailureEvent(DomainEvent):
    """The outcome event of a saga that did not complete. The engine fills in its fields; a subclass only names it."""

    event_id: str
    """The id of the triggering event."""
    event_type: str
    """The type of the triggering event."""
    event: dict[str, JsonValue]
    """The triggering event's fields, as it arrived."""
    event_version: int = 1
    """The version of the triggering event's contract."""
    error_code: str
    """A stable code in the form `domain.reason`."""
    message: str
    """The reason, for a person."""
    undone: tuple[UndoneStep, ...]
    """The steps that were undone, in the order of their undo: the last step first."""
    details: dict[str, JsonValue] | None = Field(default=None, exclude_if=lambda details: details is None)
    """The refusal's details, if it has any; `details_as` reads them as a contract."""

    def details_as(self, contract: type[C]) -> C | None:
        """Return the refusal's details as a contract; None if there are none.

        Raises:
            pydantic.ValidationError: the details are those of another contract.
        """
        return read_details(self.details, contract)


def unstorable(value: Any) -> str | None:
    """Return why a database could not store the text in this value, or None if it could."""
    match value:
        case str():
            if "\x00" in value:
                return "the text contains a NUL character"
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                return "the text contains a lone surrogate"
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
