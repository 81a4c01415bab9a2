"""Django's own connection writes to the outbox, in the transaction that Django has begun."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import EventRejected, UsageError, outbox
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_outbox
from orchestrator.store.outbox import NO_SAGA, Target
from tests.cast_events import NothingRequested
from tests.house import rows

EVENT = NothingRequested(refuse=False)


@pytest.fixture
def connection(database: Database) -> Iterator[Any]:
    """Django's connection to the test's database; each thread opens its own."""
    db: Any = pytest.importorskip("django.db", reason="Django is not installed: pip install -e '.[examples]'")
    conf: Any = pytest.importorskip("django.conf")
    if not conf.settings.configured:
        conf.settings.configure(USE_TZ=True)
        django: Any = pytest.importorskip("django")
        django.setup()
    url, query = database.url, dict(database.url.query)
    options = {
        "NAME": url.database,
        "USER": url.username,
        "PASSWORD": url.password,
        "HOST": query.get("host", url.host),
    }
    if database.dialect == "postgresql":
        pytest.importorskip("psycopg", reason="psycopg is not installed: pip install -e '.[examples]'")
    engine = {"postgresql": "postgresql", "sqlite": "sqlite3"}[database.dialect]
    defaults: Any = db.connections.configure_settings(
        {"default": {}, "test": {"ENGINE": f"django.db.backends.{engine}"}}
    )
    db.connections.settings["test"] = {**defaults["test"], **{name: value for name, value in options.items() if value}}
    yield db.connections
    del db.connections.settings["test"]


def in_transaction(connections: Any, *added: tuple[NothingRequested, str], fails: bool = False) -> None:
    """Add events in one transaction of Django's, which a bug ends if `fails`."""
    atomic: Any = pytest.importorskip("django.db.transaction").atomic
    try:
        with atomic(using="test"):
            for event, event_id in added:
                outbox.add_sync(connections["test"], event, event_id=event_id, key="k")
            if fails:
                raise KeyError("a bug")
    finally:
        connections["test"].close()
        del connections["test"]  # the next test has another database under this name


async def test_an_event_is_added_with_djangos_transaction_and_only_with_it(database: Database, connection: Any) -> None:
    await asyncio.to_thread(in_transaction, connection, (EVENT, "one"))
    with pytest.raises(KeyError):
        await asyncio.to_thread(in_transaction, connection, (EVENT, "two"), fails=True)

    [row] = await rows(database, saga_outbox)
    assert (row.event_id, row.ordering_key, row.saga_id, row.target) == ("one", "k", NO_SAGA, Target.LISTENERS)
    assert (row.sent_at, row.attempts) == (None, 0)


async def test_a_repeated_event_id_is_accepted_only_with_the_same_content(database: Database, connection: Any) -> None:
    await asyncio.to_thread(in_transaction, connection, (EVENT, "e"), (EVENT, "e"))
    with pytest.raises(EventRejected, match=r"event\.id_reused"):
        await asyncio.to_thread(in_transaction, connection, (NothingRequested(refuse=True), "e"))

    assert len(await rows(database, saga_outbox)) == 1


async def test_outside_of_a_transaction_an_event_is_refused(database: Database, connection: Any) -> None:
    def add() -> None:
        try:
            outbox.add_sync(connection["test"], EVENT)
        finally:
            del connection["test"]

    with pytest.raises(UsageError, match=r"Add it inside `with transaction\.atomic"):
        await asyncio.to_thread(add)

    assert await rows(database, saga_outbox) == []
