"""Two relays of one outbox, stopped at every point: all events are sent, and those of one key in order.

One relay is stopped before, inside or after it claims, sends or marks rows, while the other runs as far as it can.
Then the first one continues with the rows that it has claimed, or dies.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio.runtime import MetricBuffer, Runtime, TelemetryConfig

from orchestrator import DomainEvent, outbox
from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.drive.driver import Driver
from orchestrator.protocol.lookup import EventFilter, Lookup
from orchestrator.protocol.messages.envelope import Envelope, read, wrap
from orchestrator.store import outbox as store_outbox
from orchestrator.store.belonging import adopt, check_belonging
from orchestrator.store.core.database import TRIES, Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga_dead_letter, saga_meta, saga_outbox
from orchestrator.store.outbox import NO_SAGA, OutboxRow, Target, is_due
from orchestrator.store.queries.lookup import answer
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.worker.relay.limits import RelayLimits
from orchestrator.worker.relay.relay import DeliveryResult, Relay
from tests import chain
from tests.cast_events import NothingRequested
from tests.house import CATALOG, eventually, rows
from tests.orchestrators import Nothing
from tests.store.pacing import Pacer, until_stopped

R = TypeVar("R")
EVENT = NothingRequested(refuse=False)
KEYS = ("k", "l", None, "k", "l", "k", None)
"""The ordering keys of the rows, in order."""
POINTS = [f"{where} {what}" for what in ("claim", "send", "mark") for where in ("before", "inside", "after")]
SOON = RelayLimits(first_wait=timedelta(0), newer_wait=timedelta(0), unknown_for=timedelta(0))


class Post:
    """Records the deliveries, in order; delivering an event in `fails` raises."""

    def __init__(self) -> None:
        self.delivered: list[str] = []
        self.fails: set[str] = set()

    async def __call__(self, listener: AnyOrchestrator, event: DomainEvent, envelope: Envelope) -> None:
        if envelope.event_id in self.fails:
            raise ConnectionError("the listener is unreachable")
        self.delivered.append(envelope.event_id)

    def firsts(self, key: str) -> list[str]:
        """The deliveries with a key, without repeats."""
        return [event_id for event_id in dict.fromkeys(self.delivered) if event_id.startswith(key)]


class PacedDatabase(Database):
    """A database with a point inside each transaction, its effect written and not committed."""

    pacer = Pacer()
    doing = ""

    async def in_transaction(self, work: Callable[[AsyncConnection], Awaitable[R]], *, tries: int = TRIES) -> R:
        """Run a transaction with a point before its commit."""

        async def paced(connection: AsyncConnection) -> R:
            result = await work(connection)
            await self.pacer.at(f"inside {self.doing}")
            return result

        return await super().in_transaction(paced, tries=tries)


class PacedRelay(Relay):
    """A relay with points around its claims, its deliveries and its marks."""

    @property
    def paced(self) -> PacedDatabase:
        """The relay's database."""
        assert isinstance(self.database, PacedDatabase)
        return self.database

    async def _claim(self, few: bool) -> list[OutboxRow]:
        return await self._paced("claim", lambda: super(PacedRelay, self)._claim(few))

    async def _send(self, row: OutboxRow, known: set[object]) -> DeliveryResult:  # type: ignore[override]
        await self.paced.pacer.at("before send")
        result = await super()._send(row, known)  # type: ignore[arg-type]
        await self.paced.pacer.at("inside send")  # the listener has received the event
        return result

    async def _mark(self, results: Sequence[DeliveryResult]) -> None:
        await self.paced.pacer.at("after send")
        await self._paced("mark", lambda: super(PacedRelay, self)._mark(results))

    async def _paced(self, doing: str, work: Callable[[], Awaitable[R]]) -> R:
        await self.paced.pacer.at(f"before {doing}")
        self.paced.doing = doing
        result = await work()
        await self.paced.pacer.at(f"after {doing}")
        return result


def relay_of(database: Database, post: Post, limits: RelayLimits = SOON) -> Relay:
    return Relay(database, database, CATALOG, post, limits=limits)


async def drain(relay: Relay) -> None:
    """Send until no row can be claimed."""
    while await is_due(relay.database):
        if not (await relay.pass_on()).made_progress:
            break


async def all_sent(database: Database) -> bool:
    return all(row.sent_at is not None for row in await rows(database, saga_outbox))


@pytest.fixture
async def ids(database: Database) -> list[str]:
    """The event ids of rows with two keys and without a key, in order."""
    added: list[str] = []
    for number, key in enumerate(KEYS):
        async with database.transaction() as connection:
            added.append(await outbox.add(connection, EVENT, key=key, event_id=f"{key or 'free'}{number}"))
    return added


@pytest.mark.parametrize(
    "first_relay", ["continues in time", "continues late", pytest.param("dies", marks=pytest.mark.exhaustive)]
)
@pytest.mark.parametrize("point", POINTS)
async def test_one_relay_is_stopped_while_the_other_sends(
    database: Database, ids: list[str], point: str, first_relay: str
) -> None:
    post, lease = Post(), timedelta(seconds=30 if first_relay == "continues in time" else 0)
    limits = RelayLimits(lease=lease, at_once=4)
    beside = PacedDatabase(database.url.render_as_string(hide_password=False))
    pacer = beside.pacer = Pacer(point)
    stopped = PacedRelay(beside, database, CATALOG, post, limits=limits)
    first = asyncio.create_task(stopped.pass_on())
    await until_stopped(database, pacer, first)
    assert pacer.reached.is_set()

    other = relay_of(database, post, limits)
    second = asyncio.create_task(drain(other))
    await until_stopped(database, Pacer(), second)
    if first_relay == "dies":
        first.cancel()
    else:
        pacer.go_on.set()
    async with asyncio.timeout(20):
        await asyncio.gather(first, second, return_exceptions=first_relay == "dies")

        async def done() -> bool:
            await drain(other)
            return await all_sent(database)

        await eventually(done, "all events are sent")
    await beside.close()

    assert set(post.delivered) == set(ids)
    assert post.firsts("k") == [event_id for event_id in ids if event_id.startswith("k")]
    assert post.firsts("l") == [event_id for event_id in ids if event_id.startswith("l")]
    if first_relay == "continues in time":
        assert len(post.delivered) == len(ids)


async def test_an_event_that_fails_for_now_blocks_its_key_and_no_other(database: Database, ids: list[str]) -> None:
    post = Post()
    post.fails = {"k3"}
    relay = relay_of(database, post)

    for _ in range(3):
        await relay.pass_on()

    [failing] = [row for row in await rows(database, saga_outbox) if row.attempts]
    assert set(ids) - set(post.delivered) == {"k3", "k5"}
    assert (failing.event_id, failing.error) == ("k3", "ConnectionError: the listener is unreachable")
    post.fails = set()
    await drain(relay)
    assert post.firsts("k") == ["k0", "k3", "k5"]
    assert await all_sent(database)


async def test_an_event_that_can_never_be_sent_becomes_a_dead_letter_and_blocks_none(database: Database) -> None:
    post = Post()
    good = read((await _add(database, key="k", event_id="good"))[0].envelope).text
    bad = {
        "unknown": (good.replace("NOTHING_REQUESTED", "NOBODY_KNOWS"), "event.unknown_type"),
        "garbage": ("{", "event.not_json"),
        "large": (good.replace("false", '"' + "x" * 300_000 + '"'), "event.too_large"),
        "invalid": (good.replace("false", '"no"'), "event.invalid"),
        "unheard": (good.replace("NOTHING_REQUESTED", "NOTHING_COMPLETED"), "event.no_listener"),
    }
    async with database.transaction() as connection:
        for name, (envelope, _) in bad.items():
            target = "listeners, at least one" if name == "unheard" else "listeners"
            row = {"event_id": name, "saga_id": NO_SAGA, "target": target, "ordering_key": "k"}
            await connection.execute(saga_outbox.insert().values(**row, envelope=envelope))
    await _add(database, key="k", event_id="last")

    await drain(relay_of(database, post))
    await drain(relay_of(database, post))

    assert post.delivered == ["good", "last"]
    assert await all_sent(database)
    letters = {letter.origin_run_id: letter for letter in await rows(database, saga_dead_letter)}
    assert {name: letter.code for name, letter in letters.items()} == {name: code for name, (_, code) in bad.items()}
    assert {letter.source for letter in letters.values()} == {"outbox"}
    assert letters["large"].raw == bad["large"][0].encode()


async def test_an_event_of_a_newer_contract_version_is_retried(database: Database) -> None:
    [row] = await _add(database, key="k", event_id="newer")
    async with database.transaction() as connection:
        newer = row.envelope.replace('"dataversion": 1', '"dataversion": 2')
        assert newer != row.envelope
        await connection.execute(saga_outbox.update().values(envelope=newer))
    relay = relay_of(database, Post())

    await relay.pass_on()
    await relay.pass_on()

    [row] = await rows(database, saga_outbox)
    assert (row.sent_at, row.attempts) == (None, 2)
    assert row.error.startswith("event.version_newer")
    assert not await rows(database, saga_dead_letter)


async def test_an_event_of_an_unknown_type_is_kept_while_new_code_may_be_deployed(database: Database) -> None:
    [row] = await _add(database, event_id="new")
    async with database.transaction() as connection:
        unknown = row.envelope.replace("NOTHING_REQUESTED", "SOMETHING_NEW")
        await connection.execute(saga_outbox.update().values(envelope=unknown))
    patient = RelayLimits(unknown_for=timedelta(minutes=1), newer_wait=timedelta(0))

    await relay_of(database, Post(), patient).pass_on()

    assert not await rows(database, saga_dead_letter)
    assert not await all_sent(database)


async def test_an_event_that_starts_a_saga_waits_for_a_worker_that_knows_the_listener(database: Database) -> None:
    """Its row was written for a listener, so an older worker that knows no listener may not mark it as sent."""
    envelope = read((await _add(database, event_id="good"))[0].envelope).text
    outcome = envelope.replace("NOTHING_REQUESTED", "NOTHING_COMPLETED").replace('"good"', '"outcome"')
    shared = envelope.replace('"good"', '"shared"')
    async with database.transaction() as connection:
        for event_id, target, text in (("outcome", None, outcome), ("shared", Target.MISSING.value, shared)):
            row = {"event_id": event_id, "saga_id": NO_SAGA, "target": target, "envelope": text}
            await connection.execute(saga_outbox.insert().values(**row))
    patient = RelayLimits(unknown_for=timedelta(minutes=1), newer_wait=timedelta(0))

    await relay_of(database, Post(), patient).pass_on()

    waiting = {row.event_id: row.error for row in await rows(database, saga_outbox) if row.sent_at is None}
    assert {event_id: error.partition(":")[0] for event_id, error in waiting.items()} == {
        "outcome": "event.no_listener",
        "shared": "event.no_listener",
    }
    await drain(relay_of(database, Post()))
    assert await all_sent(database)
    assert [letter.origin_run_id for letter in await rows(database, saga_dead_letter)] == ["outcome"]


async def test_a_relay_is_woken_by_a_commit_in_its_process(
    database: Database,
) -> None:
    post, lazy = Post(), RelayLimits(first_look=timedelta(minutes=5), last_look=timedelta(minutes=5))
    relay = relay_of(database, post, lazy)
    running = asyncio.create_task(relay.run())
    await eventually(lambda: _true(bool(database.when_outbox_filled)), "the relay runs")

    await _add(database, event_id="one")
    await eventually(lambda: _true(post.delivered == ["one"]), "the event is sent without waiting for the next look")
    post.fails = {"two"}
    await _add(database, event_id="two")
    await eventually(lambda: _tried(database), "the event was tried")
    relay.stop()
    await running

    assert not database.when_outbox_filled


@pytest.mark.parametrize("kind", ["sqlite"])
async def test_the_lag_is_measured_and_a_large_lag_is_logged(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    buffer = MetricBuffer(100)
    runtime = Runtime(telemetry=TelemetryConfig(metrics=buffer))
    post = Post()
    post.fails = {"e"}
    await _add(database, event_id="e")
    async with database.transaction() as connection:
        await connection.execute(saga_outbox.update().values(created_at=datetime.now(UTC) - timedelta(minutes=2)))
    hurried = RelayLimits(measured=timedelta(0), first_look=timedelta(0), last_look=timedelta(0))
    relay = Relay(database, database, CATALOG, post, limits=hurried, meter=runtime.metric_meter, name="books")

    running = asyncio.create_task(relay.run())
    await eventually(lambda: _tried(database), "the event was tried")
    relay.stop()
    await running

    metrics = {update.metric.name: update for update in buffer.retrieve_updates()}
    assert metrics["orchestrator_outbox_waiting"].value == 1
    assert metrics["orchestrator_outbox_lag"].value >= 120
    assert dict(metrics["orchestrator_outbox_lag"].attributes)["database"] == "books"
    assert "1 events in the outbox of books wait to be sent, the oldest for 12" in caplog.text


async def test_a_copy_of_a_database_sends_nothing_until_it_is_adopted(database: Database) -> None:
    await _add(database, event_id="e")
    async with database.transaction() as connection:
        await connection.execute(saga_meta.update().values(temporal_cluster_id="the original's"))
    post, checks = Post(), list[str]()

    async def check() -> None:
        checks.append("")
        await check_belonging(database, "default", "mine")

    hurried = RelayLimits(first_look=timedelta(0), last_look=timedelta(0), checked=timedelta(0))
    relay = Relay(database, database, CATALOG, post, limits=hurried, check_belonging=check)
    running = asyncio.create_task(relay.run())

    await eventually(lambda: _true(len(checks) > 2), "the relay checks repeatedly")
    assert not post.delivered
    await adopt(database, "default", "mine")
    await eventually(lambda: _true(post.delivered == ["e"]), "the event is sent")
    relay.stop()
    await running


async def _tried(database: Database) -> bool:
    return any(row.attempts for row in await rows(database, saga_outbox))


async def _true(condition: bool) -> bool:
    return condition


async def _add(database: Database, *, key: str | None = None, event_id: str) -> list[OutboxRow]:
    async with database.transaction() as connection:
        await outbox.add(connection, EVENT, key=key, event_id=event_id)
    return [row for row in await rows(database, saga_outbox) if row.event_id == event_id]


async def test_an_event_that_started_a_saga_is_delivered_to_its_other_listeners(
    stocked: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_outbox, "FORWARD_AFTER", timedelta(0))
    deliveries: list[str] = []
    requested = chain.LinkRequested()
    envelope = wrap(requested, event_id="e", source="tests")
    steps = StoreSteps(stocked, chain.CATALOG)

    async def deliver(listener: AnyOrchestrator, event: DomainEvent, envelope: Envelope) -> None:
        deliveries.append(listener.__name__)
        await Driver(listener, event, envelope, steps).drive()

    for _ in range(2):  # the repeat starts no other saga
        await Driver(chain.FirstLink, requested, envelope, steps).drive()
    assert [row.target for row in await rows(stocked, saga_outbox)].count(Target.MISSING) == 1
    relay = Relay(stocked, stocked, chain.CATALOG, deliver, limits=SOON)
    while not await all_sent(stocked):
        await relay.pass_on()

    assert sorted(deliveries) == ["SecondLink", "ThirdLink", "Watching"]
    wanted = EventFilter(types=("LINK_REQUESTED",))
    events = (await answer(Databases(stocked), Lookup(events=wanted))).events
    assert [event.key for event in events] == ["LINK_REQUESTED/e"]  # the row for the other listeners is not an event
    assert [row.target for row in await rows(stocked, saga_outbox)].count(Target.MISSING) == 2


async def test_an_event_with_one_listener_costs_no_extra_statement(stocked: Database) -> None:
    """It costs none even if other events of the catalog have several listeners."""
    with_others = Catalog.of(
        orchestrators=[*CATALOG.orchestrators.values(), *chain.ORCHESTRATORS], operations=CATALOG.operations.values()
    )

    async def cost(catalog: Catalog, event_id: str) -> int:
        statements: list[str] = []

        def record_statement(*args: Any) -> None:
            statements.append(args[2])

        event.listen(stocked.engine.sync_engine, "before_cursor_execute", record_statement)
        envelope = wrap(EVENT, event_id=event_id, source="tests")
        await Driver(Nothing, EVENT, envelope, StoreSteps(stocked, catalog)).drive()
        event.remove(stocked.engine.sync_engine, "before_cursor_execute", record_statement)
        return len(statements)

    await cost(CATALOG, "warm")
    assert await cost(with_others, "e") == await cost(CATALOG, "f")
