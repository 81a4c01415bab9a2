"""Locks: sagas draw tickets for keys in order, and the saga with the lowest ticket of a key holds it.

A key has a head (ticket 0) that records the next ticket, and a row for each ticket that is drawn and not released. An
opening draws all tickets of its sagas in one statement, which locks the heads in the order of their keys. They stay
locked until the opening commits. This has two consequences.

*There is no deadlock between rows.* Every transaction locks sagas by id first, then heads by key. A transaction that
waits for a head holds none that sorts after it. Releasing tickets locks no head.

*There is no deadlock between sagas.* Say A comes before B on a key that both have. If they were drawn in one
transaction, A came first in its list, for each key. If they were drawn in two, B's waited for the head until A's had
committed, so A's committed first. Thus sagas ordered by commit, and within a commit by list, form one queue for all
keys together, and each saga waits only for sagas further ahead. The first saga of the queue waits for none.

`unused_lock_keys` removes heads while no ticket of their key is drawn. No saga is in that key's queue then, so both
statements still hold.

A finish that commits while an opening draws may not see the new ticket, and then wakes no saga. Therefore a waiting
saga also checks again by itself.
"""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Text, TextClause, Uuid, bindparam, insert, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.selectable import TextualSelect

from orchestrator.protocol.commands import Blocker, SagaRef
from orchestrator.store.core import clock
from orchestrator.store.core.saga_ids import OF_SAGAS, ids_as_json
from orchestrator.store.core.schema import saga_lock


@dataclass(frozen=True, slots=True, kw_only=True)
class Woken:
    """A saga that has become the first in line for a key, and may be waiting for it."""

    saga: SagaRef
    owner_workflow_id: str
    """The id of the execution that waits; empty if there is none."""


Waker = Callable[[Sequence[Woken]], Awaitable[None]]
"""Makes the drivers of these sagas check immediately. Never raises; a driver that is not reached checks later."""


async def wake_none(woken: Sequence[Woken]) -> None:
    """Wake no driver; the sagas check by themselves."""


@dataclass(frozen=True, slots=True)
class _Dialect:
    """The statements in one database's dialect. Their text does not depend on how many sagas or keys there are."""

    now: str
    of_sagas: str
    of_keys: str

    def heads(self) -> TextClause:
        return text(
            "INSERT INTO saga_lock (key, ticket, next_ticket, created_at) "  # noqa: S608
            f"SELECT given.value, 0, 1 + count(*), {self.now} FROM {self.of_keys} AS given "
            "WHERE true GROUP BY given.value ORDER BY given.value "
            "ON CONFLICT (key, ticket) DO UPDATE SET next_ticket = saga_lock.next_ticket + excluded.next_ticket - 1 "
            "RETURNING key, next_ticket"
        ).bindparams(bindparam("keys", type_=Text()))

    def holding(self) -> TextualSelect:
        statement = f"SELECT DISTINCT saga_id FROM saga_lock WHERE saga_id IN {self.of_sagas}"  # noqa: S608
        return self._of_sagas(statement).columns(saga_id=Uuid)

    def blockers(self) -> TextualSelect:
        return self._of_sagas(
            "SELECT mine.saga_id, mine.key, holder.saga_id AS holder, other.orchestrator, other.event_id, "  # noqa: S608
            "(SELECT count(*) FROM saga_lock AS ahead "
            "WHERE ahead.key = mine.key AND ahead.ticket > 0 AND ahead.ticket < mine.ticket) AS before "
            "FROM saga_lock AS mine JOIN saga_lock AS holder ON holder.key = mine.key AND holder.ticket = "
            "(SELECT min(lowest.ticket) FROM saga_lock AS lowest WHERE lowest.key = mine.key AND lowest.ticket > 0) "
            "JOIN saga AS other ON other.id = holder.saga_id "
            f"WHERE mine.saga_id IN {self.of_sagas} AND holder.ticket < mine.ticket ORDER BY mine.key"
        ).columns(saga_id=Uuid, holder=Uuid)

    def waiting(self) -> TextualSelect:
        return self._of_sagas(
            "SELECT DISTINCT mine.saga_id FROM saga_lock AS mine "  # noqa: S608
            f"WHERE mine.saga_id IN {self.of_sagas} AND EXISTS (SELECT 1 FROM saga_lock AS ahead "
            "WHERE ahead.key = mine.key AND ahead.ticket > 0 AND ahead.ticket < mine.ticket)"
        ).columns(saga_id=Uuid)

    def release(self) -> TextClause:
        return self._of_sagas(
            f"DELETE FROM saga_lock WHERE saga_id IN {self.of_sagas} RETURNING key, ticket"  # noqa: S608
        )

    def first_of_each(self) -> TextualSelect:
        return (
            text(
                "SELECT first.key, first.ticket, saga.id AS saga_id, orchestrator, event_id, owner_workflow_id "  # noqa: S608
                "FROM saga_lock AS first JOIN saga ON saga.id = first.saga_id "
                f"WHERE first.key IN (SELECT value FROM {self.of_keys} AS given) AND first.ticket = "
                "(SELECT min(lowest.ticket) FROM saga_lock AS lowest "
                "WHERE lowest.key = first.key AND lowest.ticket > 0) ORDER BY saga.id"
            )
            .bindparams(bindparam("keys", type_=Text()))
            .columns(saga_id=Uuid)
        )

    @staticmethod
    def _of_sagas(statement: str) -> TextClause:
        return text(statement).bindparams(bindparam("sagas", type_=Text()))


_POSTGRESQL = _Dialect(
    clock.NOW_AS_TEXT["postgresql"],
    OF_SAGAS["postgresql"],
    "json_array_elements_text(CAST(:keys AS json))",
)
_SQLITE = _Dialect(clock.NOW_AS_TEXT["sqlite"], OF_SAGAS["sqlite"], "json_each(:keys)")
_STATEMENTS: Mapping[str, Mapping[str, TextClause | TextualSelect]] = {
    name: {
        "heads": dialect.heads(),
        "holding": dialect.holding(),
        "blockers": dialect.blockers(),
        "waiting": dialect.waiting(),
        "release": dialect.release(),
        "first_of_each": dialect.first_of_each(),
    }
    for name, dialect in (("postgresql", _POSTGRESQL), ("sqlite", _SQLITE))
}
_TICKETS = insert(saga_lock).values(created_at=clock.now())


async def draw(connection: AsyncConnection, sagas: Mapping[UUID, Sequence[str]]) -> None:
    """Draw a ticket for each key of each saga that has none. The caller holds the locks of the sagas' rows.

    Args:
        connection: in the transaction that opens the sagas. The heads stay locked until it ends.
        sagas: the keys of each saga, in the order of arrival.
    """
    have = set(
        await connection.scalars(_of(connection, "holding"), {"sagas": ids_as_json(connection.dialect.name, sagas)})
    )
    drawing = {key: locks for key, locks in sagas.items() if key not in have}
    wanted = Counter(lock for locks in drawing.values() for lock in locks)
    if not wanted:
        return
    heads = await connection.execute(_of(connection, "heads"), {"keys": json.dumps(sorted(wanted.elements()))})
    tickets = {head.key: head.next_ticket - wanted[head.key] for head in heads}
    drawn: list[dict[str, object]] = []
    for key, locks in drawing.items():
        for lock in locks:
            drawn.append({"key": lock, "ticket": tickets[lock], "saga_id": key})
            tickets[lock] += 1
    await connection.execute(_TICKETS, drawn)


async def blockers(connection: AsyncConnection, sagas: Iterable[UUID]) -> dict[UUID, tuple[Blocker, ...]]:
    """Return the sagas that each of these sagas waits for, by key; a saga that holds all its keys is left out."""
    rows = await connection.execute(_of(connection, "blockers"), {"sagas": ids_as_json(connection.dialect.name, sagas)})
    waiting: dict[UUID, list[Blocker]] = {}
    for row in rows:
        holder = SagaRef(id=row.holder, orchestrator=row.orchestrator, event_id=row.event_id)
        waiting.setdefault(row.saga_id, []).append(Blocker(key=row.key, holder=holder, before=row.before))
    return {key: tuple(by) for key, by in waiting.items()}


async def waiting(connection: AsyncConnection, sagas: Iterable[UUID]) -> set[UUID]:
    """Return which of these sagas wait for a lock; cheaper than `blockers`."""
    return set(
        await connection.scalars(_of(connection, "waiting"), {"sagas": ids_as_json(connection.dialect.name, sagas)})
    )


async def release(connection: AsyncConnection, sagas: Iterable[UUID]) -> list[Woken]:
    """Release the tickets of sagas that end in this transaction.

    Returns:
        The sagas that have become the first in line for a key, each once.
    """
    released = await connection.execute(
        _of(connection, "release"), {"sagas": ids_as_json(connection.dialect.name, sagas)}
    )
    lowest: dict[str, int] = {}
    for row in released:
        lowest[row.key] = min(row.ticket, lowest.get(row.key, row.ticket))
    if not lowest:
        return []
    firsts = await connection.execute(_of(connection, "first_of_each"), {"keys": json.dumps(sorted(lowest))})
    woken: dict[UUID, Woken] = {}
    for row in firsts:
        if row.ticket > lowest[row.key]:  # a saga with a lower ticket was the first in line before
            ref = SagaRef(id=row.saga_id, orchestrator=row.orchestrator, event_id=row.event_id)
            woken[ref.id] = Woken(saga=ref, owner_workflow_id=row.owner_workflow_id or "")
    return list(woken.values())


def _of(connection: AsyncConnection, name: str) -> TextClause | TextualSelect:
    return _STATEMENTS[connection.dialect.name][name]
