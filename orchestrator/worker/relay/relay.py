"""The relay sends the events in an outbox to their listeners after the commit, in order for each ordering key.

Each worker process runs one relay for each database. A relay may be killed anywhere. Its claims expire soon, and events
that it had sent but not marked are sent again; listeners recognise a repeat by its event id and drop it. An event that
cannot be sent yet is retried, and later events with the same key wait for it. An event that can never be sent becomes a
dead letter and blocks nothing.
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
from orchestrator.protocol.messages.dead_letters import DeadLetter, Inbound
from orchestrator.protocol.messages.envelope import UnreadableEvent, read, saga_id
from orchestrator.protocol.names import OUTBOX_SOURCE
from orchestrator.store.belonging import RecoveryRefused
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.error_text import error_text
from orchestrator.store.dead_letters.intake import store_dead_letter
from orchestrator.store.outbox import (
    OutboxRow,
    Target,
    claim,
    is_due,
    mark_rejected,
    mark_sent,
    postpone,
    sagas_among,
)
from orchestrator.store.queries.outbox import waiting
from orchestrator.worker.fault_log import fault_log_of
from orchestrator.worker.relay.delivery import Deliver
from orchestrator.worker.relay.limits import RelayLimits
from orchestrator.worker.relay.routing import Unroutable, route
from orchestrator.worker.relay.unknown_rows import UnknownRows

_log = logging.getLogger(__name__)

CheckBelonging = Callable[[], Awaitable[None]]
"""Raises `RecoveryRefused` while the database belongs to another Temporal server."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A row that was sent to all its listeners."""

    row: OutboxRow


@dataclass(frozen=True, slots=True)
class _Retry:
    """A row that will be retried after a wait."""

    row: OutboxRow
    why: str
    wait: timedelta


@dataclass(frozen=True, slots=True)
class _Rejected:
    """A row that can never be sent, and becomes a dead letter."""

    row: OutboxRow
    code: str
    message: str


DeliveryResult = _Sent | _Retry | _Rejected
"""The result of sending a row."""


@dataclass(slots=True)
class Pass:
    """Counts the results of one pass over the outbox."""

    sent: int = 0
    rejected: int = 0
    postponed: int = 0

    @property
    def made_progress(self) -> bool:
        """Whether any row left the outbox."""
        return bool(self.sent or self.rejected)


@dataclass
class Relay:
    """The relay of one database.

    Args:
        database: the database whose outbox is sent.
        home: the home database, which has the sagas and the dead letters.
        catalog: the events and the orchestrators that listen to them.
        deliver: delivers an event to a listener.
        name: the database's name.
        limits: batch sizes and times.
        meter: the meter for the backlog's size and lag.
        check_belonging: raises while the database belongs to another Temporal server. The outbox of a copied database
            must not be sent, because the original sends the same events.
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
        self._measured_at = self._warned_at = self._checked_at = float("-inf")
        self._waiting = self.meter.create_gauge("orchestrator_outbox_waiting", "Events that wait to be sent", "1")
        self._lag = self.meter.create_gauge_float("orchestrator_outbox_lag", "Age of the oldest waiting event", "s")

    def stop(self) -> None:
        """Make `run` return after a last pass."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Send events until `stop` is called. Errors are logged and retried."""
        self.database.when_outbox_filled.add(self._wake.set)
        pause, failures = self.limits.first_look, 0
        try:
            while True:
                self._wake.clear()
                last = self._stopping
                try:
                    await self._measure()
                    may_send = await self._belongs_here() and await is_due(self.database)
                    done = await self.pass_on(few=failures > 0) if may_send else Pass()
                except Exception as fault:  # neither a database error nor a bug may leave events unsent forever
                    fault_log_of(self.home).failed(f"sending the outbox of {self.name} failed and is retried", fault)
                    done = Pass(postponed=1)
                if last:
                    return
                # While Temporal or the database is unavailable, immediate retries would only use up attempts.
                failures = failures + 1 if done.postponed and not done.made_progress else 0
                if failures:
                    await self._sleep(min(self.limits.first_look * 2 ** min(failures, 10), self.limits.last_wait / 3))
                elif done.made_progress or await self._sleep(pause):
                    pause = self.limits.first_look
                else:
                    pause = min(pause * 2, self.limits.last_look)
        finally:
            self.database.when_outbox_filled.discard(self._wake.set)

    async def pass_on(self, *, few: bool = False) -> Pass:
        """Claim the due rows, send them, and mark them.

        Args:
            few: whether to claim only a few rows, because sending is likely to fail.
        """
        rows = await self._claim(few)
        if not rows:
            return Pass()
        results = await self._send_all(rows)
        await self._mark(results)
        return Pass(
            sent=sum(isinstance(result, _Sent) for result in results),
            rejected=sum(isinstance(result, _Rejected) for result in results),
            postponed=sum(isinstance(result, _Retry) for result in results),
        )

    async def _claim(self, few: bool) -> list[OutboxRow]:
        return await claim(self.database, limit=5 if few else self.limits.at_once, lease=self.limits.lease)

    async def _send_all(self, rows: Sequence[OutboxRow]) -> list[DeliveryResult]:
        until = monotonic() + self.limits.soft.total_seconds()
        known = await self._sagas_of(rows)
        by_key: dict[str | int, list[OutboxRow]] = {}
        for row in rows:
            by_key.setdefault(row.id if row.ordering_key is None else row.ordering_key, []).append(row)
        sent = await asyncio.gather(*(self._send_in_order(queue, known, until) for queue in by_key.values()))
        return [result for results in sent for result in results]

    async def _send_in_order(self, queue: Sequence[OutboxRow], known: set[UUID], until: float) -> list[DeliveryResult]:
        """Send the rows of one key in order, until one must be retried or the time is up."""
        results: list[DeliveryResult] = []
        for row in queue:
            if results and monotonic() > until:
                break
            result = await self._send(row, known)
            results.append(result)
            if isinstance(result, _Retry):
                break
        return results

    async def _send(self, row: OutboxRow, known: set[UUID]) -> DeliveryResult:
        try:
            envelope, event, listeners = route(row, known, self.catalog)
        except Unroutable as fault:
            if self._unknown.is_waited_for(row.id):
                return _Retry(row, str(fault), min(self.limits.newer_wait, self.limits.unknown_for))
            # With Target.MISSING, a listener of a shared event was probably removed, and the remaining one has its
            # saga.
            return _Sent(row) if row.target == Target.MISSING else _Rejected(row, fault.code, fault.message)
        except UnreadableEvent as fault:
            if fault.is_newer:
                return _Retry(row, str(fault), self.limits.newer_wait)
            return _Rejected(row, fault.code, fault.message)
        try:
            async with asyncio.timeout(self.limits.patience.total_seconds()):
                delivered = await asyncio.gather(
                    *(self.deliver(listener, event, envelope) for listener in listeners), return_exceptions=True
                )
        except TimeoutError:
            return _Retry(row, f"no listener accepted the event within {self.limits.patience}", self._backoff(row))
        for failure in delivered:
            if isinstance(failure, Exception):
                return _Retry(row, error_text(failure), self._backoff(row))
            if failure is not None:  # a cancellation
                raise failure
        return _Sent(row)

    async def _sagas_of(self, rows: Sequence[OutboxRow]) -> set[UUID]:
        """Return the ids of existing sagas, for the rows that are sent only to listeners without a saga."""
        candidates: set[UUID] = set()
        for row in rows:
            if row.target == Target.MISSING:
                with contextlib.suppress(UnreadableEvent):
                    envelope = read(row.envelope)
                    candidates |= {
                        saga_id(listener.__name__, envelope.event_id)
                        for listener in self.catalog.listeners_of(envelope.event_type)
                    }
        return await sagas_among(self.home, sorted(candidates)) if candidates else set()

    async def _mark(self, results: Sequence[DeliveryResult]) -> None:
        await mark_sent(self.database, [result.row.id for result in results if isinstance(result, _Sent)])
        for result in results:
            if isinstance(result, _Rejected):
                await self._reject(result)
        retries = [result for result in results if isinstance(result, _Retry)]
        await postpone(self.database, [(retry.row.id, retry.why, retry.wait) for retry in retries])
        for result in results:
            if not isinstance(result, _Retry):
                self._unknown.settle(result.row.id)

    async def _reject(self, rejected: _Rejected) -> None:
        """Store the dead letter, then mark the row. Repeating both after a crash stores no second dead letter."""
        row = rejected.row
        message = Inbound(OUTBOX_SOURCE, 1, row.envelope.encode("utf-8", "replace"))
        origin = f"{OUTBOX_SOURCE}/{self.name}"
        letter = DeadLetter(message, rejected.code, rejected.message, workflow_id=origin, run_id=row.event_id)
        await store_dead_letter(self.home, letter)
        await mark_rejected(self.database, row, f"{rejected.code}: {rejected.message}")
        _log.warning(
            "the event %s in the outbox of %s cannot be sent (%s: %s) and is now a dead letter",
            *(row.event_id, self.name, rejected.code, rejected.message),
        )

    def _backoff(self, row: OutboxRow) -> timedelta:
        wait: timedelta = self.limits.first_wait * float(2 ** min(row.attempts, 20))
        return min(wait, self.limits.last_wait) * uniform(0.8, 1.2)  # noqa: S311

    async def _sleep(self, pause: timedelta) -> bool:
        """Sleep until the pause is over or the relay is woken. Return whether it was woken."""
        try:
            async with asyncio.timeout(pause.total_seconds()):
                return await self._wake.wait()
        except TimeoutError:
            return False

    async def _belongs_here(self) -> bool:
        now, every = monotonic(), self.limits.checked.total_seconds()
        if self.check_belonging is None or now - self._checked_at < every:
            return True
        try:
            await self.check_belonging()
        except RecoveryRefused as fault:
            if now - self._warned_at > every:
                self._warned_at = now
                _log.warning("the outbox of %s is not sent. %s", self.name, fault)
            return False
        self._checked_at = now
        return True

    async def _measure(self) -> None:
        now = monotonic()
        if now - self._measured_at < self.limits.measured.total_seconds():
            return
        self._measured_at = now
        backlog = await waiting(self.database)
        self._waiting.set(backlog.count, {"database": self.name})
        self._lag.set(backlog.lag.total_seconds(), {"database": self.name})
        if backlog.lag > self.limits.late and now - self._warned_at > self.limits.late.total_seconds():
            self._warned_at = now
            error = f"; the last error is {backlog.error}" if backlog.error else ""
            _log.warning(
                "%d events in the outbox of %s wait to be sent, the oldest for %d s%s",
                *(backlog.count, self.name, backlog.lag.total_seconds(), error),
            )


_ENDING = 10.0
"""How many seconds the last pass may take."""


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
    """Send the outbox of each database while the context is open."""
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
        for task in late:  # its claims expire by themselves
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
