"""Two relays of one outbox at every point: each event goes out, those of one key in their order, whoever dies.

One is stopped before, inside or after its claim, its sending or its marking, while the other goes as far as it can.
Then the first goes on with what it has in its hand, or is no more.
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
from orchestrator.protocol.envelope import Envelope, read, wrap
from orchestrator.protocol.lookup import EventFilter, Lookup
from orchestrator.store import outbox as store_outbox
from orchestrator.store.core.database import TRIES, Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga_dead_letter, saga_meta, saga_outbox
from orchestrator.store.outbox import NO_SAGA, OutboxRow, Target, is_due
from orchestrator.store.queries.lookup import answer
from orchestrator.store.recovery import adopt, check_belonging
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
"""Of the rows, in order."""
POINTS = [f"{where} {what}" for what in ("claim", "send", "mark") for where in ("before", "inside", "after")]
SOON = RelayLimits(first_wait=timedelta(0), newer_wait=timedelta(0), unknown_for=timedelta(0))


class Post:
    """Takes what is delivered, in order."""

    def __init__(self) -> None:
        self.came: list[str] = []
        self.fails: set[str] = set()

    async def __call__(self, listener: AnyOrchestrator, event: DomainEvent, envelope: Envelope) -> None:
        """Deliver."""
        if envelope.event_id in self.fails:
            raise ConnectionError("nobody is there")
        self.came.append(envelope.event_id)

    def firsts(self, key: str) -> list[str]:
        """What came of a key, without repeats."""
        return [one for one in dict.fromkeys(self.came) if one.startswith(key)]


class PacedDatabase(Database):
    """Comes to a point inside each transaction: its effect is written and not committed."""

    pacer = Pacer()
    doing = ""

    async def in_transaction(self, work: Callable[[AsyncConnection], Awaitable[R]], *, tries: int = TRIES) -> R:
        """Stop before the commit."""

        async def paced(connection: AsyncConnection) -> R:
            result = await work(connection)
            await self.pacer.at(f"inside {self.doing}")
            return result

        return await super().in_transaction(paced, tries=tries)


class PacedRelay(Relay):
    """Stops at one point, once."""

    @property
    def paced(self) -> PacedDatabase:
        """Its database."""
        assert isinstance(self.database, PacedDatabase)
        return self.database

    async def _claim(self, few: bool) -> list[OutboxRow]:
        return await self._paced("claim", lambda: super(PacedRelay, self)._claim(few))

    async def _send(self, row: OutboxRow, known: set[object]) -> DeliveryResult:  # type: ignore[override]
        await self.paced.pacer.at("before send")
        result = await super()._send(row, known)  # type: ignore[arg-type]
        await self.paced.pacer.at("inside send")  # the listener has it
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
    """Send until nothing may be taken."""
    while await is_due(relay.database):
        if not (await relay.pass_on()).made_progress:
            break


async def all_sent(database: Database) -> bool:
    return all(row.sent_at is not None for row in await rows(database, saga_outbox))


@pytest.fixture
async def ids(database: Database) -> list[str]:
    """Rows of two keys and of none, mixed; their event ids in order."""
    added: list[str] = []
    for number, key in enumerate(KEYS):
        async with database.transaction() as connection:
            added.append(await outbox.add(connection, EVENT, key=key, event_id=f"{key or 'free'}{number}"))
    return added


@pytest.mark.parametrize(
    "then", ["goes on in time", "goes on late", pytest.param("dies", marks=pytest.mark.exhaustive)]
)
@pytest.mark.parametrize("point", POINTS)
async def test_one_stands_still_while_the_other_sends(
    database: Database, ids: list[str], point: str, then: str
) -> None:
    post, lease = Post(), timedelta(seconds=30 if then == "goes on in time" else 0)
    limits = RelayLimits(lease=lease, at_once=4)
    beside = PacedDatabase(database.url.render_as_string(hide_password=False))
    pacer = beside.pacer = Pacer(point)
    one = PacedRelay(beside, database, CATALOG, post, limits=limits)
    first = asyncio.create_task(one.pass_on())
    await until_stopped(database, pacer, first)
    assert pacer.reached.is_set()

    other = relay_of(database, post, limits)
    second = asyncio.create_task(drain(other))
    await until_stopped(database, Pacer(), second)
    if then == "dies":
        first.cancel()
    else:
        pacer.go_on.set()
    async with asyncio.timeout(20):
        await asyncio.gather(first, second, return_exceptions=then == "dies")

        async def done() -> bool:
            await drain(other)
            return await all_sent(database)

        await eventually(done, "all are sent")
    await beside.close()

    assert set(post.came) == set(ids)
    assert post.firsts("k") == [one for one in ids if one.startswith("k")]
    assert post.firsts("l") == [one for one in ids if one.startswith("l")]
    if then == "goes on in time":
        assert len(post.came) == len(ids)


async def test_what_fails_for_now_waits_with_its_key_and_holds_up_no_other(database: Database, ids: list[str]) -> None:
    post = Post()
    post.fails = {"k3"}
    relay = relay_of(database, post)

    for _ in range(3):
        await relay.pass_on()

    [failing] = [row for row in await rows(database, saga_outbox) if row.attempts]
    assert set(ids) - set(post.came) == {"k3", "k5"}
    assert (failing.event_id, failing.error) == ("k3", "ConnectionError: nobody is there")
    post.fails = set()
    await drain(relay)
    assert post.firsts("k") == ["k0", "k3", "k5"]
    assert await all_sent(database)


async def test_what_can_never_be_sent_becomes_a_dead_letter_and_holds_up_nobody(database: Database) -> None:
    post = Post()
    good = read((await _added(database, key="k", event_id="good"))[0].envelope).text
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
    await _added(database, key="k", event_id="last")

    await drain(relay_of(database, post))
    await drain(relay_of(database, post))

    assert post.came == ["good", "last"]
    assert await all_sent(database)
    letters = {letter.origin_run_id: letter for letter in await rows(database, saga_dead_letter)}
    assert {name: letter.code for name, letter in letters.items()} == {name: code for name, (_, code) in bad.items()}
    assert {letter.door for letter in letters.values()} == {"outbox"}
    assert letters["large"].raw == bad["large"][0].encode()


async def test_an_event_of_a_newer_contract_stays_and_is_offered_again(database: Database) -> None:
    [row] = await _added(database, key="k", event_id="newer")
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


async def test_a_type_that_nobody_knows_may_be_one_of_code_that_is_being_deployed(database: Database) -> None:
    [row] = await _added(database, event_id="new")
    async with database.transaction() as connection:
        unknown = row.envelope.replace("NOTHING_REQUESTED", "SOMETHING_NEW")
        await connection.execute(saga_outbox.update().values(envelope=unknown))
    patient = RelayLimits(unknown_for=timedelta(minutes=1), newer_wait=timedelta(0))

    await relay_of(database, Post(), patient).pass_on()

    assert not await rows(database, saga_dead_letter)
    assert not await all_sent(database)


async def test_what_starts_another_saga_waits_for_a_worker_that_knows_which(database: Database) -> None:
    """Its row was written because somebody listens: an older worker's relay knows nobody, and may not call it sent."""
    envelope = read((await _added(database, event_id="good"))[0].envelope).text
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
    await eventually(lambda: _true(bool(database.when_outbox_filled)), "it runs")

    await _added(database, event_id="one")
    await eventually(lambda: _true(post.came == ["one"]), "it is sent without waiting for the next look")
    post.fails = {"two"}
    await _added(database, event_id="two")
    await eventually(lambda: _tried(database), "it was tried")
    relay.stop()
    await running

    assert not database.when_outbox_filled


@pytest.mark.parametrize("kind", ["sqlite"])
async def test_the_lag_is_measured_and_a_large_one_told(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    buffer = MetricBuffer(100)
    runtime = Runtime(telemetry=TelemetryConfig(metrics=buffer))
    post = Post()
    post.fails = {"e"}
    await _added(database, event_id="e")
    async with database.transaction() as connection:
        await connection.execute(saga_outbox.update().values(created_at=datetime.now(UTC) - timedelta(minutes=2)))
    hurried = RelayLimits(measured=timedelta(0), first_look=timedelta(0), last_look=timedelta(0))
    relay = Relay(database, database, CATALOG, post, limits=hurried, meter=runtime.metric_meter, name="books")

    running = asyncio.create_task(relay.run())
    await eventually(lambda: _tried(database), "it was tried")
    relay.stop()
    await running

    said = {one.metric.name: one for one in buffer.retrieve_updates()}
    assert said["orchestrator_outbox_waiting"].value == 1
    assert said["orchestrator_outbox_lag"].value >= 120
    assert dict(said["orchestrator_outbox_lag"].attributes)["database"] == "books"
    assert "1 events in the outbox of books wait to be sent, the oldest for 12" in caplog.text


async def test_a_copy_of_a_database_sends_nothing_until_it_is_adopted(database: Database) -> None:
    await _added(database, event_id="e")
    async with database.transaction() as connection:
        await connection.execute(saga_meta.update().values(temporal_cluster_id="the original's"))
    post, asked = Post(), list[str]()

    async def check() -> None:
        asked.append("")
        await check_belonging(database, "default", "mine")

    hurried = RelayLimits(first_look=timedelta(0), last_look=timedelta(0), checked=timedelta(0))
    relay = Relay(database, database, CATALOG, post, limits=hurried, check_belonging=check)
    running = asyncio.create_task(relay.run())

    await eventually(lambda: _true(len(asked) > 2), "it asks again and again")
    assert not post.came
    await adopt(database, "default", "mine")
    await eventually(lambda: _true(post.came == ["e"]), "it is sent")
    relay.stop()
    await running


async def _tried(database: Database) -> bool:
    return any(row.attempts for row in await rows(database, saga_outbox))


async def _true(what: bool) -> bool:
    return what


async def _added(database: Database, *, key: str | None = None, event_id: str) -> list[OutboxRow]:
    async with database.transaction() as connection:
        await outbox.add(connection, EVENT, key=key, event_id=event_id)
    return [row for row in await rows(database, saga_outbox) if row.event_id == event_id]


async def test_what_started_a_saga_comes_to_those_listeners_that_have_none(
    stocked: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_outbox, "FORWARD_AFTER", timedelta(0))
    came: list[str] = []
    requested = chain.LinkRequested()
    envelope = wrap(requested, event_id="e", source="tests")
    steps = StoreSteps(stocked, chain.CATALOG)

    async def deliver(listener: AnyOrchestrator, event: DomainEvent, given: Envelope) -> None:
        came.append(listener.__name__)
        await Driver(listener, event, given, steps).drive()

    for _ in range(2):  # the repeat has no saga of its own
        await Driver(chain.FirstLink, requested, envelope, steps).drive()
    assert [row.target for row in await rows(stocked, saga_outbox)].count(Target.MISSING) == 1
    relay = Relay(stocked, stocked, chain.CATALOG, deliver, limits=SOON)
    while not await all_sent(stocked):
        await relay.pass_on()

    assert sorted(came) == ["SecondLink", "ThirdLink", "Watching"]
    wanted = EventFilter(types=("LINK_REQUESTED",))
    told = (await answer(Databases(stocked), Lookup(events=wanted))).events
    assert [one.key for one in told] == ["LINK_REQUESTED/e"]  # what was on its way to others is no event of its own
    assert [row.target for row in await rows(stocked, saga_outbox)].count(Target.MISSING) == 2


async def test_an_event_of_one_listener_costs_no_statement_more(stocked: Database) -> None:
    """Neither where its saga is opened nor where it ends, though other events have several listeners."""
    with_others = Catalog.of(
        orchestrators=[*CATALOG.orchestrators.values(), *chain.ORCHESTRATORS], operations=CATALOG.operations.values()
    )

    async def cost(catalog: Catalog, event_id: str) -> int:
        said: list[str] = []

        def note_it(*args: Any) -> None:
            said.append(args[2])

        event.listen(stocked.engine.sync_engine, "before_cursor_execute", note_it)
        envelope = wrap(EVENT, event_id=event_id, source="tests")
        await Driver(Nothing, EVENT, envelope, StoreSteps(stocked, catalog)).drive()
        event.remove(stocked.engine.sync_engine, "before_cursor_execute", note_it)
        return len(said)

    await cost(CATALOG, "warm")
    assert await cost(with_others, "e") == await cost(CATALOG, "f")
