"""The relay: sends what stands in an outbox to whoever listens, after the commit, in order for each key.

One for each database in each worker process. It may be killed or stopped anywhere: what it had claimed is free again in
a moment, what it had sent and not marked is sent once more, and listeners drop a repeat by the event's id. What fails
for now is tried again and waits, and with it what has the same key; what can never be sent is kept as a dead letter,
and holds up nobody.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from random import uniform
from time import monotonic
from uuid import UUID

from temporalio.common import MetricMeter

from orchestrator.definition.catalog import Catalog
from orchestrator.operation import HOME
from orchestrator.protocol.envelope import UnreadableEvent, read, saga_id
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.error_text import error_text
from orchestrator.store.dead_letters.intake import keep_piece
from orchestrator.store.outbox import (
    OutboxRow,
    Target,
    claim,
    is_due,
    mark_buried,
    mark_sent,
    postpone,
    sagas_among,
)
from orchestrator.store.queries.outbox import waiting
from orchestrator.store.recovery import RecoveryRefused
from orchestrator.worker.fault_log import fault_log_of
from orchestrator.worker.relay.delivery import Deliver
from orchestrator.worker.relay.routing import Unroutable, route
from orchestrator.worker.relay.unknown_rows import UnknownRows

_log = logging.getLogger(__name__)

DOOR = "outbox"
"""Of the dead letters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """How a relay goes about it; a test may have it hurry."""

    at_once: int = 50
    """Rows without a key, and keys, that are sent at once."""
    lease: timedelta = timedelta(seconds=15)
    """How long a claim lasts. Longer than what is claimed may take."""
    soft: timedelta = timedelta(seconds=5)
    """After this no further row of a key is sent under the same claim."""
    patience: timedelta = timedelta(seconds=8)
    """How long one row may take."""
    first_look: timedelta = timedelta(seconds=0.1)
    last_look: timedelta = timedelta(seconds=1)
    """From one look to the next, growing while there is nothing. After a commit in this process it looks at once."""
    first_wait: timedelta = timedelta(seconds=0.5)
    last_wait: timedelta = timedelta(seconds=30)
    """Before a row is tried again, growing with its attempts."""
    newer_wait: timedelta = timedelta(seconds=5)
    """Before an event that only newer code can read, or route, is offered again."""
    unknown_for: timedelta = timedelta(seconds=30)
    """How long an event that nobody here knows may be one of newer code, which is being deployed."""
    late: timedelta = timedelta(seconds=60)
    """A row that waits longer is told in the log, once in as long."""
    measured: timedelta = timedelta(seconds=5)
    """From one measurement to the next."""
    checked: timedelta = timedelta(seconds=30)
    """From one look at whom the database belongs to to the next."""


CheckBelonging = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Sent:
    row: OutboxRow


@dataclass(frozen=True, slots=True)
class _Later:
    row: OutboxRow
    why: str
    wait: timedelta


@dataclass(frozen=True, slots=True)
class _Buried:
    row: OutboxRow
    code: str
    message: str


ExecutionStatus = _Sent | _Later | _Buried
"""What became of a row."""


@dataclass(slots=True)
class Pass:
    """What one pass over the outbox did."""

    sent: int = 0
    buried: int = 0
    postponed: int = 0

    @property
    def went_on(self) -> bool:
        """Whether anything left the outbox."""
        return bool(self.sent or self.buried)


@dataclass
class Relay:
    """The relay of one database.

    Args:
        database: whose outbox.
        home: where sagas and dead letters are.
        catalog: who listens.
        deliver: takes an event to a listener.
        name: the database's.
        limits: how it goes about it.
        meter: for the lag.
        check_belonging: raises while the database belongs to another Temporal: a copy's events are the original's.
    """

    database: Database
    home: Database
    catalog: Catalog
    deliver: Deliver
    name: str = HOME
    limits: RelayLimits = field(default_factory=RelayLimits)
    meter: MetricMeter = MetricMeter.noop
    check_belonging: CheckBelonging | None = None

    def __post_init__(self) -> None:
        self._wake = asyncio.Event()
        self._stopping = False
        self._unknown = UnknownRows(self.limits.unknown_for)
        self._measured = self._told = self._checked = float("-inf")
        self._waiting = self.meter.create_gauge("orchestrator_outbox_waiting", "Events that wait to be sent", "1")
        self._lag = self.meter.create_gauge_float("orchestrator_outbox_lag", "Age of the oldest of them", "s")

    def stop(self) -> None:
        """Have `run` end, after a last pass."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Send what comes, until `stop`. Whatever fails is told in the log, and tried again."""
        self.database.when_outbox_filled.add(self._wake.set)
        pause, failures = self.limits.first_look, 0
        try:
            while True:
                self._wake.clear()
                last = self._stopping
                try:
                    await self._measure()
                    may_send = await self._belongs_here() and await is_due(self.database)
                    passed = await self.pass_on(few=failures > 0) if may_send else Pass()
                except Exception as fault:  # of the database, or a bug: neither may leave events unsent for good
                    fault_log_of(self.home).failed(f"the outbox of {self.name}", fault)
                    passed = Pass(postponed=1)
                if last:
                    return
                # With Temporal or the database away, one try after the other would only count attempts.
                failures = failures + 1 if passed.postponed and not passed.went_on else 0
                if failures:
                    await self._sleep(min(self.limits.first_look * 2 ** min(failures, 10), self.limits.last_wait / 3))
                elif passed.went_on or await self._sleep(pause):
                    pause = self.limits.first_look
                else:
                    pause = min(pause * 2, self.limits.last_look)
        finally:
            self.database.when_outbox_filled.discard(self._wake.set)

    async def pass_on(self, *, few: bool = False) -> Pass:
        """Claim, send and mark what is due.

        Args:
            few: only some, as sending is likely to fail.
        """
        rows = await self._claim(few)
        if not rows:
            return Pass()
        fates = await self._send_all(rows)
        await self._mark(fates)
        return Pass(
            sent=sum(isinstance(fate, _Sent) for fate in fates),
            buried=sum(isinstance(fate, _Buried) for fate in fates),
            postponed=sum(isinstance(fate, _Later) for fate in fates),
        )

    async def _claim(self, few: bool) -> list[OutboxRow]:
        return await claim(self.database, limit=5 if few else self.limits.at_once, lease=self.limits.lease)

    async def _send_all(self, rows: Sequence[OutboxRow]) -> list[ExecutionStatus]:
        over = monotonic() + self.limits.soft.total_seconds()
        known = await self._sagas_of(rows)
        runs: dict[str | int, list[OutboxRow]] = {}
        for row in rows:
            runs.setdefault(row.id if row.ordering_key is None else row.ordering_key, []).append(row)
        sent = await asyncio.gather(*(self._send_run(run, known, over) for run in runs.values()))
        return [fate for fates in sent for fate in fates]

    async def _send_run(self, run: Sequence[OutboxRow], known: set[UUID], over: float) -> list[ExecutionStatus]:
        """One after the other, up to the first that has to wait."""
        fates: list[ExecutionStatus] = []
        for row in run:
            if fates and monotonic() > over:
                break
            fate = await self._send(row, known)
            fates.append(fate)
            if isinstance(fate, _Later):
                break
        return fates

    async def _send(self, row: OutboxRow, known: set[UUID]) -> ExecutionStatus:
        try:
            envelope, event, listeners = route(row, known, self.catalog)
        except Unroutable as fault:
            if self._unknown.is_waited_for(row.id):
                return _Later(row, str(fault), min(self.limits.newer_wait, self.limits.unknown_for))
            # Of a shared event's listeners one was taken away, it seems: the saga that is there is all there is to be.
            return _Sent(row) if row.target == Target.MISSING else _Buried(row, fault.code, fault.message)
        except UnreadableEvent as fault:
            if fault.is_newer:
                return _Later(row, str(fault), self.limits.newer_wait)
            return _Buried(row, fault.code, fault.message)
        try:
            async with asyncio.timeout(self.limits.patience.total_seconds()):
                delivered = await asyncio.gather(
                    *(self.deliver(listener, event, envelope) for listener in listeners), return_exceptions=True
                )
        except TimeoutError:
            return _Later(row, f"not taken within {self.limits.patience}", self._wait(row))
        for failure in delivered:
            if isinstance(failure, Exception):
                return _Later(row, error_text(failure), self._wait(row))
            if failure is not None:  # a cancel
                raise failure
        return _Sent(row)

    async def _sagas_of(self, rows: Sequence[OutboxRow]) -> set[UUID]:
        """Sagas that are there, of events that are to come to those who have none."""
        wanted: set[UUID] = set()
        for row in rows:
            if row.target == Target.MISSING:
                with contextlib.suppress(UnreadableEvent):
                    envelope = read(row.envelope)
                    wanted |= {
                        saga_id(one.__name__, envelope.event_id)
                        for one in self.catalog.listeners_of(envelope.event_type)
                    }
        return await sagas_among(self.home, sorted(wanted)) if wanted else set()

    async def _mark(self, fates: Sequence[ExecutionStatus]) -> None:
        await mark_sent(self.database, [fate.row.id for fate in fates if isinstance(fate, _Sent)])
        for fate in fates:
            if isinstance(fate, _Buried):
                await self._bury(fate)
        later = [fate for fate in fates if isinstance(fate, _Later)]
        await postpone(self.database, [(fate.row.id, fate.why, fate.wait) for fate in later])
        for fate in fates:
            if not isinstance(fate, _Later):
                self._unknown.settle(fate.row.id)

    async def _bury(self, fate: _Buried) -> None:
        """The letter first: cut off in between, it is kept once and the row is met again."""
        raw = fate.row.envelope.encode("utf-8", "replace")
        await keep_piece(
            self.home,
            door=DOOR,
            workflow_id=f"{DOOR}/{self.name}",
            run_id=fate.row.event_id,
            position=1,
            code=fate.code,
            reason=fate.message,
            size=len(raw),
            offset=0,
            raw=raw,
        )
        await mark_buried(self.database, fate.row, f"{fate.code}: {fate.message}")
        _log.warning("the outbox of %s: %s is kept as a dead letter, %s", self.name, fate.row.event_id, fate.code)

    def _wait(self, row: OutboxRow) -> timedelta:
        grown: timedelta = self.limits.first_wait * float(2 ** min(row.attempts, 20))
        return min(grown, self.limits.last_wait) * uniform(0.8, 1.2)  # noqa: S311

    async def _sleep(self, pause: timedelta) -> bool:
        """Wait, or be woken; returns whether."""
        try:
            async with asyncio.timeout(pause.total_seconds()):
                return await self._wake.wait()
        except TimeoutError:
            return False

    async def _belongs_here(self) -> bool:
        now, every = monotonic(), self.limits.checked.total_seconds()
        if self.check_belonging is None or now - self._checked < every:
            return True
        try:
            await self.check_belonging()
        except RecoveryRefused as fault:
            if now - self._told > every:
                self._told = now
                _log.warning("the outbox of %s: nothing is sent. %s", self.name, fault)
            return False
        self._checked = now
        return True

    async def _measure(self) -> None:
        now = monotonic()
        if now - self._measured < self.limits.measured.total_seconds():
            return
        self._measured = now
        found = await waiting(self.database)
        self._waiting.set(found.count, {"database": self.name})
        self._lag.set(found.lag.total_seconds(), {"database": self.name})
        if found.lag > self.limits.late and now - self._told > self.limits.late.total_seconds():
            self._told = now
            _log.warning(
                "the outbox of %s: %d waiting to be sent, the oldest for %d s%s",
                *(self.name, found.count, found.lag.total_seconds(), f": {found.error}" if found.error else ""),
            )


_ENDING = 10.0
"""Seconds that a last pass may take."""


@asynccontextmanager
async def relaying(
    databases: Databases,
    catalog: Catalog,
    deliver: Deliver,
    *,
    meter: MetricMeter = MetricMeter.noop,
    limits: RelayLimits | None = None,
    check_belonging: CheckBelonging | None = None,
) -> AsyncGenerator[None]:
    """While this is open, what stands in the outbox of each database is sent."""
    relays = [
        Relay(
            database,
            databases.home,
            catalog,
            deliver,
            name=name,
            limits=limits or RelayLimits(),
            meter=meter,
            check_belonging=check_belonging,
        )
        for name, database in databases
    ]
    running = [asyncio.create_task(relay.run()) for relay in relays]
    try:
        yield
    finally:
        for relay in relays:
            relay.stop()
        _, late = await asyncio.wait(running, timeout=_ENDING)
        for task in late:  # its claims run out
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
