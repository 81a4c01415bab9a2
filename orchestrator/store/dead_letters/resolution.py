"""Resolving dead letters: they are searched, shown, and settled once, by compare-and-set.

A dead letter is open until it is settled, and only retention deletes it afterwards. A replay marks the letter before it
publishes, and settles it afterwards; a letter that is being replayed cannot be dropped or edited. This module knows
only SQL.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, LargeBinary, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.errors import storable
from orchestrator.protocol.messages.dead_letters import DeadLetter, Inbound
from orchestrator.store.core import clock
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_dead_letter
from orchestrator.store.dead_letters.intake import (
    EDITED_SOURCE,
    PEEK,
    edited_from,
    edited_origin,
    event_id_of,
    insert_dead_letter,
)
from orchestrator.store.queries.sagas import reading

_UNNAMED = 200
"""How many dead letters without an event id are searched for one event."""
_UNDER_WAY = "being replayed"
_CLAIM = timedelta(minutes=1)
"""How long after its mark an unfinished replay counts as dead."""
_table = saga_dead_letter.c


class State(StrEnum):
    """The states of dead letters to search for."""

    OPEN = "open"
    SETTLED = "settled"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDeadLetter:
    """One stored dead letter."""

    id: int
    source: str
    """The source: `bus`, `start`, `update`, `outbox`, `edited`, or the name of the signal with which it arrived."""
    workflow_id: str
    """The id of the execution to which the message was sent, or a substitute if there is none."""
    run_id: str
    position: int
    raw: bytes
    """The message, byte for byte; only its beginning in a list. May be personal."""
    size: int
    """The size of the whole message, in bytes."""
    stored_size: int
    """How many bytes are stored; fewer than `size` while a large message is arriving."""
    code: str
    reason: str
    created_at: datetime
    settled_at: datetime | None
    settled_as: str | None

    @property
    def is_open(self) -> bool:
        """Whether the dead letter has not been settled."""
        return self.settled_at is None

    @property
    def is_whole(self) -> bool:
        """Whether the whole message has arrived."""
        return self.stored_size >= self.size

    @property
    def edited_from(self) -> int | None:
        """The number of the dead letter of which this is an edited copy."""
        return edited_from(self.workflow_id) if self.source == EDITED_SOURCE else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The criteria of a search for dead letters."""

    state: State = State.OPEN
    source: str | None = None
    code: str | None = None
    event_type: str | None = None
    """The event type in the message's text; a message that cannot be read may contain one nevertheless."""
    orchestrator: str | None = None
    """The orchestrator to whose executions the message was sent, going by their usual ids."""
    since: datetime | None = None
    limit: int = 20


class Settled(StrEnum):
    """The result of an attempt to settle a dead letter."""

    DONE = "done"
    BEFORE = "before"
    """The dead letter was already settled."""
    UNDER_WAY = "under_way"
    """The dead letter is being replayed."""


async def find_dead_letters(database: Database, search: Search) -> Sequence[StoredDeadLetter]:
    """Return dead letters, the newest first, each with the beginning of its message.

    Raises:
        NoTables: no worker has run on this database.
        Unreachable: the database cannot be reached.
    """
    # By time if the search is bounded by time: by number, a search with few matches would read all older letters.
    newest_first = [_table.id.desc()] if search.since is None else [_table.created_at.desc(), _table.id.desc()]
    statement = select(*_COLUMNS, _BEGINNING).where(*_terms(database, search))
    async with reading(database) as connection:
        rows = await connection.execute(statement.order_by(*newest_first).limit(search.limit))
        return [_view(row) for row in rows]


async def count_dead_letters(database: Database, search: Search, *, at_most: int | None = None) -> int:
    """Count the dead letters of a search regardless of its limit; counting stops at `at_most`.

    Raises:
        NoTables, Unreachable: as `find_dead_letters`.
    """
    matching = select(_table.id).where(*_terms(database, search)).limit(at_most).subquery()
    async with reading(database) as connection:
        return int(await connection.scalar(select(func.count()).select_from(matching)) or 0)


async def read_dead_letter(database: Database, number: int) -> StoredDeadLetter | None:
    """Return one dead letter with its whole message; None if there is none with that number.

    Raises:
        NoTables, Unreachable: as `find_dead_letters`.
    """
    async with reading(database) as connection:
        row = (await connection.execute(select(*_COLUMNS, _table.raw).where(_table.id == number))).first()
    return None if row is None else _view(row)


async def dead_letters_of_event(database: Database, event_id: str, *, limit: int = 5) -> Sequence[StoredDeadLetter]:
    """Return the newest dead letters whose message contains an event id as its own, each with its message's beginning.

    Raises:
        NoTables, Unreachable: as `find_dead_letters`.
    """
    columns = select(*_COLUMNS, _BEGINNING).order_by(_table.id.desc()).limit(limit)
    async with reading(database) as connection:
        letters = [_view(row) for row in await connection.execute(columns.where(_table.event_id == event_id))]
        # Letters that an older version stored; recovery fills in their event ids, so soon there are none.
        unnamed = columns.where(_table.event_id.is_(None)).limit(_UNNAMED)
        others = [_view(row) for row in await connection.execute(unnamed)]
    letters += [letter for letter in others if event_id_of(letter.raw) == event_id]
    return sorted(letters, key=lambda letter: letter.id, reverse=True)[:limit]


async def claim_for_replay(database: Database, number: int, *, by: str) -> str | None:
    """Mark an open dead letter as being replayed. Several may replay it, because the event's id makes repeats harmless.

    Returns:
        The mark, for `give_up_replay`; None if the letter was settled before.
    """
    since = await clock.read_clock(database)
    claim = storable(f"{_UNDER_WAY} since {since.isoformat()} by {by}")
    claimed = await _settle(database, number, {"settled_as": claim}, heeds_claims=False)
    return claim if claimed is Settled.DONE else None


async def give_up_replay(database: Database, number: int, claim: str) -> None:
    """Open a dead letter again after a failed replay, unless another replay has marked it since."""
    ours = (_table.id == number, _table.settled_at.is_(None), _table.settled_as == claim)
    async with database.transaction() as connection:
        await connection.execute(update(saga_dead_letter).where(*ours).values(settled_as=None))


async def settle_dead_letter(database: Database, number: int, settled_as: str, *, heeds_claims: bool) -> Settled:
    """Settle a dead letter, if it is open.

    Args:
        database: the home database.
        number: the dead letter's number.
        settled_as: a sentence that says how it was settled, and by whom.
        heeds_claims: whether to leave the letter unchanged while it is being replayed.
    """
    values = {"settled_at": clock.now(), "settled_as": storable(settled_as)}
    return await _settle(database, number, values, heeds_claims=heeds_claims)


async def store_edited_copy(
    database: Database, letter: StoredDeadLetter, raw: bytes, *, by: str, code: str, reason: str
) -> int | None:
    """Store an edited copy as a dead letter of its own and settle the original, which is otherwise left unchanged.

    Returns:
        The copy's number; None if the original is already settled or is being replayed.
    """
    async with database.transaction() as connection:
        now = await clock.clock_of(connection)
        if not await _set(connection, letter.id, {"settled_at": now}, heeds_claims=True):
            return None
        message = Inbound(EDITED_SOURCE, 1, raw)
        copy = DeadLetter(message, code, reason, workflow_id=edited_origin(letter.id), run_id=now.isoformat())
        number = await insert_dead_letter(connection, copy)
        settled_as = storable(f"edited as {number} by {by}")
        await connection.execute(update(saga_dead_letter).where(_table.id == letter.id).values(settled_as=settled_as))
    return number


_COLUMNS: tuple[ColumnElement[Any], ...] = (
    _table.id,
    _table.source,
    _table.origin_workflow_id,
    _table.origin_run_id,
    _table.origin_position,
    _table.size,
    func.length(_table.raw).label("stored_size"),
    _table.code,
    _table.reason,
    _table.created_at,
    _table.settled_at,
    _table.settled_as,
)
_BEGINNING = func.substr(_table.raw, 1, PEEK, type_=LargeBinary).label("raw")


def _terms(database: Database, search: Search) -> Sequence[ColumnElement[bool]]:
    terms: list[ColumnElement[bool]] = []
    if search.state is not State.ALL:
        is_open = search.state is State.OPEN
        terms.append(_table.settled_at.is_(None) if is_open else _table.settled_at.is_not(None))
    if search.source is not None:
        terms.append(_table.source == search.source)
    if search.code is not None:
        terms.append(_table.code == search.code)
    if search.since is not None:
        terms.append(_table.created_at >= search.since)
    if search.orchestrator is not None:
        terms.append(_table.origin_workflow_id.startswith(f"{search.orchestrator}/", autoescape=True))
    if search.event_type is not None:
        terms.append(_holds(database, f'"{search.event_type}"'.encode("utf-8", "replace")))
    return terms


def _holds(database: Database, needle: bytes) -> ColumnElement[bool]:
    """Whether a message contains these bytes."""
    find = func.instr if database.dialect == "sqlite" else func.pg_catalog.position
    return find(_table.raw, needle) > 0


async def _settle(database: Database, number: int, values: dict[str, Any], *, heeds_claims: bool) -> Settled:
    async with database.transaction() as connection:
        if await _set(connection, number, values, heeds_claims=heeds_claims):
            return Settled.DONE
        settled_at = await connection.scalar(select(_table.settled_at).where(_table.id == number))
    return Settled.UNDER_WAY if settled_at is None else Settled.BEFORE


async def _set(connection: AsyncConnection, number: int, values: dict[str, Any], *, heeds_claims: bool) -> bool:
    """Settle or mark a dead letter by compare-and-set, so that the first of several to commit wins."""
    statement = update(saga_dead_letter).where(_table.id == number, _table.settled_at.is_(None))
    if heeds_claims:
        now = await clock.clock_of(connection)
        dead, future = (f"{_UNDER_WAY} since {moment.isoformat()}" for moment in (now - _CLAIM, now + _CLAIM))
        # A mark in the future was made by a worker whose clock was ahead, and would be valid until then.
        no_claim = or_(_table.settled_as.is_(None), _table.settled_as < dead, _table.settled_as > future)
        statement = statement.where(no_claim)
    changed = await connection.execute(statement.values(**values))
    return changed.rowcount == 1


def _view(row: Any) -> StoredDeadLetter:
    return StoredDeadLetter(
        id=row.id,
        source=row.source,
        workflow_id=row.origin_workflow_id,
        run_id=row.origin_run_id,
        position=row.origin_position,
        raw=row.raw,
        size=row.size,
        stored_size=row.stored_size,
        code=row.code,
        reason=row.reason,
        created_at=row.created_at,
        settled_at=row.settled_at,
        settled_as=row.settled_as,
    )
