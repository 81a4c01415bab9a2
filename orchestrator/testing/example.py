"""Examples: what an author gives the conformance kit to play with, and what counts as equal there."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from orchestrator.event import DomainEvent
from orchestrator.operation import OperationCall
from orchestrator.transaction import Transaction

Row = Mapping[str, Any]
Given = Callable[[Transaction], Awaitable[object]] | Sequence[OperationCall[Any]]
"""What stands before an event comes: a function that writes it, or calls to run in order."""
Normalise = Callable[[str, dict[str, Any]], Row | None]
"""From a table's name and a row to the row as it is compared; None leaves it out."""

EVENT_TIME = datetime(2026, 3, 14, 15, 9, 26, 535_897, tzinfo=UTC)
"""When an example's event happened: fixed, so that what an operation makes of it is the same in every run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Equality:
    """What counts as equal when two states of a database are compared. By default every column of every row.

        Equality(ignore_columns={"account": {"updated_at"}}, ignore_tables={"audit"})

    A column of the primary key may be ignored, too, one that the database numbers for instance: rows are then
    compared by what is left of them, each as often as it occurs.
    """

    ignore_columns: Mapping[str, Collection[str]] = field(default_factory=dict[str, Collection[str]])
    """By table."""
    ignore_tables: Collection[str] = ()
    """Not looked at."""
    normalise: Normalise | None = None
    """Called for each row that is left."""


@dataclass(frozen=True, slots=True)
class Example:
    """One event of an orchestrator, and the state that it comes into."""

    event: DomainEvent
    """Starts the saga, which must complete when nothing goes wrong, unless `refused` says otherwise."""
    name: str = ""
    """For reports; by default the event's type."""
    given: Given = ()
    """What stands before: `async def books(tx): tx.add(Account(...))`, or a list of described calls."""
    other: DomainEvent | None = None
    """What somebody else asks for between do and undo, under another event id; by default the same again."""
    refused: str | None = None
    """The error code that its saga ends with even if nothing goes wrong. It proves less: nothing stands after it."""
    sent: Sequence[DomainEvent] = ()
    """Events that are sent to the saga while it waits: `saga.wait_for` takes the first that matches, at once."""
    observe: Callable[[], Any] | None = None
    """What stands outside of the database, as a value to compare: letters sent, files written. May be async."""
    restore: Callable[[], Any] | None = None
    """Puts what `observe` shows back to how it was before. May be async."""

    def __str__(self) -> str:
        return self.name or self.event.type_name()
