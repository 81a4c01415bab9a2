"""A listener receives each event once, however many are committed while another transaction is open."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator import EventTimeout
from orchestrator.client.listening import EventLog, Listening
from orchestrator.client.outcomes.lookup import DatabaseLookup
from orchestrator.protocol.lookup import LOOKUP_KEYS, OVERLAP, EventFilter, Lookup, LookupReply
from orchestrator.protocol.messages.envelope import wrap
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga_outbox
from orchestrator.store.queries.lookup import answer
from tests.cast_events import CoinsMoveCompleted

SOON = timedelta(seconds=20)
AT_ONCE = timedelta(milliseconds=300)


class TablesByWorker(DatabaseLookup):
    """Sends each lookup and its reply as JSON, as if a worker answered, and records the longest lookup."""

    longest = 0

    async def ask(self, lookup: Lookup) -> LookupReply:
        lookup_text = lookup.model_dump_json()
        self.longest = max(self.longest, len(lookup_text))
        reply = await super().ask(Lookup.model_validate_json(lookup_text))
        return LookupReply.model_validate_json(reply.model_dump_json())


@pytest.fixture(params=[DatabaseLookup, TablesByWorker])
async def log(request: pytest.FixtureRequest, database: Database) -> AsyncGenerator[EventLog]:
    """A client's event log, which reads the database directly or as a worker would."""
    log = EventLog(request.param(Databases(database)))
    yield log
    await log.close()


def row(number: int, ago: float, note: str = "") -> dict[str, Any]:
    """An outbox row of an event that was recorded `ago` seconds ago."""
    envelope = wrap(CoinsMoveCompleted(coins=number, note=note), event_id=f"event-{number}", source="tests")
    recorded_at = datetime.now(UTC) - timedelta(seconds=ago)
    return {"event_id": envelope.event_id, "saga_id": UUID(int=1), "envelope": envelope.text, "created_at": recorded_at}


async def write(connection: AsyncConnection, rows: list[dict[str, Any]]) -> None:
    """Insert events into the outbox."""
    await connection.execute(insert(saga_outbox), rows)


async def commit(database: Database, rows: list[dict[str, Any]]) -> None:
    """Insert events into the outbox and commit them."""
    async with database.transaction() as connection:
        await write(connection, rows)


async def hear(listening: Listening[CoinsMoveCompleted], number: int) -> list[int]:
    """The numbers of the next events."""
    return [(await listening.next(timeout=SOON)).coins for _ in range(number)]


def listener(log: EventLog, since: datetime | None = None) -> Listening[CoinsMoveCompleted]:
    """A listener for all of these events."""
    return Listening(log, CoinsMoveCompleted, None, since)


async def test_an_event_committed_15_seconds_late_is_received_after_3000_later_events(
    database: Database, log: EventLog
) -> None:
    later = [row(number, ago=15 - number / 200) for number in range(1, 3_001)]
    late = [row(0, ago=15)]
    async with listener(log) as listening:
        if database.dialect == "postgresql":
            async with database.transaction() as open_transaction:
                await write(open_transaction, late)
                await commit(database, later)
                heard = await hear(listening, 3_000)
        else:  # SQLite has one writer at a time, so a row that is committed late is also written late
            await commit(database, later)
            heard = await hear(listening, 3_000)
            await commit(database, late)

        assert sorted(heard) == list(range(1, 3_001))
        assert await hear(listening, 1) == [0]
        with pytest.raises(EventTimeout):
            await listening.next(timeout=AT_ONCE)


async def test_a_new_listener_receives_an_uncommitted_event_but_no_committed_ones(
    database: Database, log: EventLog
) -> None:
    await commit(database, [row(number, ago=40 - number / 100) for number in range(1, 3_001)])

    async with listener(log) as listening:
        await commit(database, [row(0, ago=45)])

        assert await hear(listening, 1) == [0]
        with pytest.raises(EventTimeout):
            await listening.next(timeout=AT_ONCE)


async def test_a_reply_with_only_some_of_the_events_hides_no_late_event(database: Database, log: EventLog) -> None:
    """A reply carries about a megabyte, here a tenth of the events."""
    large = "x" * 50_000
    async with listener(log) as listening:
        await commit(database, [row(number, ago=30 - number / 10, note=large) for number in range(1, 201)])
        heard = await hear(listening, 30)
        await commit(database, [row(0, ago=50)])

        heard += await hear(listening, 171)

    assert sorted(heard) == list(range(201))


async def test_a_listener_since_long_ago_receives_all_in_order_and_remembers_one_minute(
    database: Database, log: EventLog
) -> None:
    await commit(database, [row(number, ago=86_400 - number) for number in range(7_000)])
    await commit(database, [row(7_000, ago=1)])

    async with listener(log, datetime.now(UTC) - timedelta(days=2)) as listening:
        heard = await hear(listening, 7_001)
        with pytest.raises(EventTimeout):
            await listening.next(timeout=AT_ONCE)

    assert heard == list(range(7_001))
    assert len(listening.seen) == 1


async def test_a_listeners_memory_and_lookups_are_bounded(database: Database) -> None:
    tables = TablesByWorker(Databases(database))
    log = EventLog(tables)
    async with listener(log) as listening:
        assert listening.floor is not None
        listening.seen = {number.to_bytes(8): listening.floor for number in range(200_000)}
        await commit(database, [row(1, ago=0)])
        await hear(listening, 1)

        assert tables.longest < 1_500_000  # Temporal accepts two megabytes
        now = datetime.now(UTC) + OVERLAP * 3
        listening.raise_floor(LookupReply(now=now))
        assert len(listening.seen) == 0
    await log.close()


async def test_a_client_from_before_fingerprints_is_answered_with_keys(database: Database) -> None:
    await commit(database, [row(number, ago=30 - number / 200) for number in range(2_100)])
    types = (CoinsMoveCompleted.type_name(),)

    known = await answer(Databases(database), Lookup(events=EventFilter(types=types, keys_only=True)))
    seen = frozenset(event.key for event in known.events)
    rest = await answer(Databases(database), Lookup(events=EventFilter(types=types, seen=seen)))

    assert len(known.events) == LOOKUP_KEYS
    assert [event.key for event in rest.events] == [f"{types[0]}/event-{number}" for number in range(100)]


async def test_a_reply_from_before_fingerprints_is_understood(database: Database, log: EventLog) -> None:
    await commit(database, [row(number, ago=30 - number / 200) for number in range(2_100)])
    types = (CoinsMoveCompleted.type_name(),)
    reply = await answer(Databases(database), Lookup(events=EventFilter(types=types, keys_only=True)))
    listening = listener(log)

    listening.skip(reply)

    assert listening.floor == reply.events[0].recorded_at
    assert not any(listening.receive(event) for event in reply.events)
