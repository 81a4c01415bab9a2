"""The examples that an author passes to the conformance kit, and what counts as equal when it compares states."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from orchestrator.event import DomainEvent
from orchestrator.operation import OperationCall
from orchestrator.transaction import Transaction

Row = Mapping[str, Any]
Given = Callable[[Transaction], Awaitable[object]] | Sequence[OperationCall[Any]]
"""The state before the event arrives: a function that writes it, or operation calls to run in order."""
Normalise = Callable[[str, dict[str, Any]], Row | None]
"""Takes a table's name and a row, and returns the row in the form to compare, or None to leave it out."""

EVENT_TIME = datetime(2026, 3, 14, 15, 9, 26, 535_897, tzinfo=UTC)
"""When an example's event happened. It is fixed, so that values derived from it are the same in every run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Equality:
    """What counts as equal when two states of a database are compared. By default every column of every row counts.

        Equality(ignore_columns={"account": {"updated_at"}}, ignore_tables={"audit"})

    A column of the primary key may be ignored, for example one that the database numbers. Rows are then compared by
    their other columns, and each must occur equally often.
    """

    ignore_columns: Mapping[str, Collection[str]] = field(default_factory=dict[str, Collection[str]])
    """The ignored columns, by table."""
    ignore_tables: Collection[str] = ()
    """The ignored tables."""
    normalise: Normalise | None = None
    """Called for each row of the other tables, after columns were ignored."""


@dataclass(frozen=True, slots=True)
class Example:
    """One event of an orchestrator, and the state that exists before it arrives."""

    event: DomainEvent
    """The event that starts the saga. The saga must complete if no fault occurs, unless `refused` is set."""
    name: str = ""
    """The name in reports; by default the event's type."""
    given: Given = ()
    """The state before: `async def books(tx): tx.add(Account(...))`, or a list of operation calls."""
    other: DomainEvent | None = None
    """The event that another client sends between do and undo; by default the same event under another id."""
    refused: str | None = None
    """The error code that the saga ends with even without a fault. It proves less, because no effect remains."""
    sent: Sequence[DomainEvent] = ()
    """The events that the saga can receive: `saga.wait_for` immediately returns the first one that matches."""
    observe: Callable[[], Any] | None = None
    """Returns the state outside of the database as a value to compare: letters sent, files written. May be async."""
    restore: Callable[[], Any] | None = None
    """Restores the state that `observe` returns to what it was before. May be async."""

    def __str__(self) -> str:
        return self.name or self.event.type_name()
