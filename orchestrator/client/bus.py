"""The event bus: takes domain events to every orchestrator that listens, by signal-with-start.

*Accepted* means that the call returned: the event is in Temporal's hands, and ends in exactly one outcome. Whatever is
wrong with an event is told here, and then nothing is sent.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Self, TypeVar, cast

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.client.connection import connect_temporal
from orchestrator.client.handle import SagaHandle
from orchestrator.client.in_flight import request_slot
from orchestrator.client.listening import EventLog, Listening
from orchestrator.client.many import Outgoing, deliver_many
from orchestrator.client.outcomes.lookup import DatabaseLookup, WorkerLookup, is_of
from orchestrator.client.outcomes.recorded import RecordedOutcomes
from orchestrator.client.own_execution import ensure_own_execution
from orchestrator.client.partitions import PartitionSender, partition_of
from orchestrator.client.rejected import keep_rejected
from orchestrator.client.validation import address, checked_envelope, envelope_of, read_event
from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.errors import EventRejected, EventTimeout, PublishIncomplete, Unreachable, UsageError
from orchestrator.event import DomainEvent, FailureEvent
from orchestrator.orchestrator import Orchestrator
from orchestrator.protocol.envelope import Envelope
from orchestrator.protocol.event_ids import new_event_id
from orchestrator.protocol.names import EVENT_SIGNAL, own_workflow_id
from orchestrator.settings import Settings
from orchestrator.store.connections.event_loop import LoopBinding
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.workflow.own_execution import raw_json

_logger = logging.getLogger(__name__)

Req = TypeVar("Req", bound=DomainEvent)
Comp = TypeVar("Comp", bound=DomainEvent)
Fail = TypeVar("Fail", bound=FailureEvent)
Heard = TypeVar("Heard", bound=DomainEvent)


class EventBus:
    """Publishes events.

        bus = await EventBus.connect()
        completed = await bus.execute(MoneyTransfer, MoneyTransferRequested(...))

    Any number of calls may be made at once: requests in flight are limited, and the others wait their turn. A bus
    belongs to the event loop in which it is first used; in another one, and after a fork, each call raises
    `UsageError`.

    Args:
        client: a connection with Temporal's `pydantic_data_converter`.
        catalog: which events there are, and who listens.
        task_queue: the workers' task queue.
        source: CloudEvents `source` of what is published: who says so.
        database: the home database, with the others if there are; what executions do not tell is read there, as
            outcomes of sagas in partitions are. None: a worker is asked, through Temporal.
    """

    def __init__(
        self,
        client: Client,
        catalog: Catalog,
        *,
        task_queue: str = "orchestrator",
        source: str = "orchestrator/bus",
        database: Database | Databases | None = None,
    ) -> None:
        self.client = client
        self.catalog = catalog
        self.task_queue = task_queue
        self.source = source
        self._loop = LoopBinding(
            "this EventBus",
            "Make one with `await EventBus.connect()` in each event loop, and after a fork.",
        )
        reached = None if database is None else Databases.of(database)
        self._database = None if reached is None else reached.home
        self._tables = WorkerLookup(client, task_queue) if reached is None else DatabaseLookup(reached)
        self._outcomes = RecordedOutcomes(self._tables, binding=self._loop)
        self._log = EventLog(self._tables, self._loop)
        self._partitions = PartitionSender(client, task_queue)

    @classmethod
    async def connect(cls, settings: Settings | None = None, *, catalog: Catalog | None = None) -> Self:
        """A bus by the environment's settings.

        It reads what it needs in the home database, if `ORCHESTRATOR_DATABASE_URL` says where that is or the embedded
        one, of this Temporal, lies in the state folder; else a worker is asked, through Temporal. An address that is
        set and does not answer is told, once something is wanted from there.

        Raises:
            Unreachable: Temporal cannot be reached.
            DefinitionError: the application's events or orchestrators have faults.
        """
        settings = settings or Settings()
        known = catalog or Catalog.discover(settings.packages)
        databases = None
        if settings.has_database:
            databases = Databases.at(settings.resolved_database_url, settings.databases, pool_size=2)
        client = await connect_temporal(settings)
        if databases is not None and not await is_of(databases.home, client):
            if settings.database_url:
                _logger.warning("%s is another Temporal's: a worker is asked for outcomes", databases.home.shown)
            await databases.close()  # or an embedded one that was left there
            databases = None
        bus = cls(client, known, task_queue=settings.task_queue, database=databases)
        bus._loop.check()
        return bus

    async def close(self) -> None:
        """Close what was opened to read the tables. Whoever waits for something there is told that it is cancelled."""
        self._loop.check()
        await self._outcomes.close()
        await self._log.close()
        await self._tables.close()

    def read(self, event_type: str, payload: str | bytes) -> DomainEvent:
        """An event from its type and the JSON of its fields, checked as strictly as on arrival.

        Raises:
            EventRejected: `event.unknown_type`, `event.too_large`, or `event.invalid` naming each wrong field.
        """
        return read_event(self.catalog, event_type, payload)

    async def publish(
        self, event: DomainEvent, *, event_id: str | None = None, time: datetime | None = None
    ) -> list[SagaHandle[Any]]:
        """Send an event to every orchestrator that listens to it.

        Args:
            event: what happened.
            event_id: the idempotency key: the same event published twice under it is done once. Made up if not given.
            time: when it happened; now if not given.

        Returns:
            A handle for each saga, by orchestrator name. All of them have accepted the event.

        Raises:
            EventRejected: it is invalid, too large, nobody listens, or its id was used for other content.
            PublishIncomplete: some listeners took it, and the server failed before the others did.
            Unreachable: the server could not be reached, and nobody took it.
        """
        self._loop.check()
        event_id = new_event_id() if event_id is None else event_id  # an empty one is refused, as any other wrong one
        envelope = envelope_of(self.catalog, event, event_id=event_id, source=self.source, time=time)
        return await self._deliver(self.catalog.listeners(type(event)), event, envelope)

    async def publish_raw(self, raw: bytes | str) -> list[SagaHandle[Any]]:
        """Send what another system gave us, as it stands: a CloudEvents 1.0 envelope in JSON. Nothing of it is lost.

        What cannot be read, or has no listener, is kept as a dead letter. Its id is the idempotency key.

        Returns:
            A handle for each saga, by orchestrator name; none if only the workers know who listens to it.

        Raises:
            EventRejected: it was not taken; `dead_letter` is the number under which it is kept, or None if that is
                left to a worker that has yet to come, or if it is too large to get there without the database.
            PublishIncomplete: as `publish`.
            Unreachable: the server could not be reached, and nobody took it, nor kept it.
        """
        try:
            return await self.publish_envelope(raw)
        except EventRejected as fault:
            kept = raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass")
            await keep_rejected(
                self.client, self._database, kept, fault, task_queue=self.task_queue, source=self.source
            )
            return []

    async def publish_envelope(self, raw: bytes | str) -> list[SagaHandle[Any]]:
        """Send an event in its envelope to every orchestrator that listens, as `publish_raw` does, and keep nothing.

        Raises:
            EventRejected: it cannot be read, nobody listens, or its id was used for other content; nothing was sent.
            PublishIncomplete, Unreachable: as `publish`.
        """
        self._loop.check()
        addressed = address(self.catalog, raw)
        return await self._deliver(addressed.listeners, addressed.event, addressed.envelope)

    async def _deliver(
        self, listeners: Sequence[AnyOrchestrator], event: DomainEvent | None, envelope: Envelope
    ) -> list[SagaHandle[Any]]:
        accepted: list[SagaHandle[Any]] = []
        missed: list[str] = []
        faults: list[BaseException] = []
        # At once: whoever waited for one listener first would come to the next one's partition out of order.
        sending = (self._send(listener, event, envelope) for listener in listeners)
        for listener, sent in zip(listeners, await asyncio.gather(*sending, return_exceptions=True), strict=True):
            if isinstance(sent, BaseException):
                missed.append(listener.__name__)
                faults.append(sent)
            else:
                accepted.append(sent)
        for fault in faults:
            if not isinstance(fault, RPCError):
                raise fault
            if accepted:
                raise PublishIncomplete([one.orchestrator.__name__ for one in accepted], missed) from fault
            raise Unreachable(
                f"Temporal did not say that it took the event {envelope.event_id} ({fault.message}). Publish it "
                "again with the same event id: if it was taken after all, the repeat is dropped."
            ) from fault
        for handle in accepted:
            if handle.is_repeat:
                await handle.outcome()  # closed, so this answers at once; other content under this id raises
        return accepted

    async def publish_many(
        self,
        events: Iterable[DomainEvent],
        *,
        event_ids: Iterable[str] | None = None,
        time: datetime | None = None,
    ) -> list[list[SagaHandle[Any]]]:
        """Send many events: those for one partition travel together, in the order given.

        All of them are checked before any is sent.

        Args:
            events: what happened, in order.
            event_ids: an idempotency key for each; made up if not given.
            time: when all of it happened; now if not given.

        Returns:
            For each event its handles, as `publish` does. All have been accepted.

        Raises:
            UsageError: there are more or fewer ids than events.
            EventRejected: one of the events is invalid or too large, or nobody listens; nothing was sent.
            PublishIncomplete, Unreachable: the server failed before all were taken; the message says which were not.
        """
        self._loop.check()
        given = list(events)
        ids = [new_event_id() for _ in given] if event_ids is None else list(event_ids)
        if len(ids) != len(given):
            raise UsageError(f"{len(given)} events and {len(ids)} event ids were given")
        outgoing: list[Outgoing] = []
        for event, event_id in zip(given, ids, strict=True):
            envelope = envelope_of(self.catalog, event, event_id=event_id, source=self.source, time=time)
            outgoing.append(Outgoing(self.catalog.listeners(type(event)), event, envelope))
        return await deliver_many(self._deliver, outgoing)

    async def execute(
        self,
        orchestrator: type[Orchestrator[Req, Comp, Fail]],
        event: Req,
        *,
        event_id: str | None = None,
        time: datetime | None = None,
        timeout: timedelta | None = None,
    ) -> Comp:
        """Publish an event and wait for what one of its listeners makes of it.

        Args:
            orchestrator: the listener to wait for; every other listener gets the event, too.
            event: what happened.
            event_id: the idempotency key; made up if not given.
            time: when it happened; now if not given.
            timeout: how long to wait. The saga goes on all the same.

        Returns:
            The completed event.

        Raises:
            SagaFailed: the saga was undone; its `failure` is the failed event.
            NotFinished: it has not ended within the timeout.
            EventRejected, PublishIncomplete, Unreachable: as `publish`.
        """
        handles = await self.publish(event, event_id=event_id, time=time)
        for handle in handles:
            if handle.orchestrator is orchestrator:
                return cast(Comp, await handle.result(timeout=timeout))
        raise EventRejected("event.no_listener", f"{orchestrator.__name__} does not listen to {event.type_name()}")

    def handle(self, orchestrator: type[Orchestrator[Any, Comp, Any]], event_id: str) -> SagaHandle[Comp]:
        """A handle to a saga that was started before, by whichever process, however long ago.

        Nothing is asked yet: what is not there is told by the handle's methods, as `SagaUnknown`.

        Args:
            orchestrator: whose saga.
            event_id: of the event that started it.
        """
        workflow_id = own_workflow_id(orchestrator.__name__, event_id)
        return SagaHandle(self.client, orchestrator, event_id, workflow_id, outcomes=self._outcomes)

    async def wait_for(
        self,
        event: type[Heard],
        *,
        matching: Callable[[Heard], bool] | None = None,
        since: datetime | None = None,
        timeout: timedelta | None = None,
    ) -> Heard:
        """Wait for the next event of a type to go through: accepted by an orchestrator, an outcome, or in an outbox.

        Args:
            event: its class; one of an older version becomes today's.
            matching: which of them; any if not given.
            since: one that was recorded at that time or later counts, too. If not given, what goes through from now on.
            timeout: how long to wait.

        Raises:
            NotHeard: none came within the timeout.
            Unreachable: what has to be asked cannot be reached, and never was.
            UsageError: `since` has no time zone.
        """
        listening = self.listening(event, matching=matching, since=since)
        try:
            async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
                async with listening:
                    return await listening.next()
        except TimeoutError:
            raise EventTimeout(f"no {event.type_name()} that matches was heard of within {timeout}") from None

    def listening(
        self, event: type[Heard], *, matching: Callable[[Heard], bool] | None = None, since: datetime | None = None
    ) -> Listening[Heard]:
        """Events of a type one after the other, as `wait_for`, none missed in between. See `Listening`.

        Raises:
            UsageError: `since` has no time zone.
        """
        return Listening(self._log, event, matching, since)

    async def send(
        self,
        event: DomainEvent,
        *,
        to: type[Orchestrator[Any, Any, Any]],
        saga: str,
        event_id: str | None = None,
        time: datetime | None = None,
    ) -> None:
        """Send an event to one saga that waits for it with `saga.wait_for`, now or later.

        Args:
            event: one of those that the orchestrator names in `awaited`.
            to: the saga's orchestrator.
            saga: id of the event that started the saga.
            event_id: the idempotency key: sent twice under it, it is received once. Made up if not given.
            time: when it happened; now if not given.

        Raises:
            EventRejected: `event.not_awaited`, the orchestrator waits for no such event; `saga.not_running`, there is
                no such saga, or it has ended; or the event is invalid or too large.
            Unreachable: the server did not say that it took the event.
        """
        self._loop.check()
        name = event.type_name()
        if type(event) not in to.awaited:
            known = ", ".join(sorted(one.type_name() for one in to.awaited)) or "none"
            raise EventRejected("event.not_awaited", f"{to.__name__} does not wait for {name}; it waits for {known}")
        event_id = new_event_id() if event_id is None else event_id
        envelope = checked_envelope(event, event_id=event_id, source=self.source, time=time)
        handle = self.client.get_workflow_handle(own_workflow_id(to.__name__, saga))
        try:
            async with request_slot():
                await handle.signal(EVENT_SIGNAL, raw_json(envelope.text.encode()))
        except RPCError as fault:
            if fault.status is RPCStatusCode.NOT_FOUND:
                raise EventRejected(
                    "saga.not_running",
                    f"no saga of {to.__name__} runs for the event {saga}, so nobody takes {name}: it has ended, or was "
                    "never started",
                ) from fault
            raise Unreachable(
                f"Temporal did not say that it took the event {envelope.event_id} ({fault.message}). Send it again "
                "with the same event id: if it was taken after all, the repeat is dropped."
            ) from fault

    async def _send(self, listener: AnyOrchestrator, event: DomainEvent | None, envelope: Envelope) -> SagaHandle[Any]:
        # What only a newer worker can read waits in an execution of its own: a partition would send it there, too.
        if listener.partitions is not None and event is not None:
            workflow_id = partition_of(listener, event, envelope)
            run_id = await self._partitions.send(listener.__name__, workflow_id, envelope)
            return SagaHandle(
                self.client,
                listener,
                envelope.event_id,
                workflow_id,
                run_id,
                outcomes=self._outcomes,
                envelope=envelope,
            )
        execution = await ensure_own_execution(self.client, listener.__name__, envelope, self.task_queue)
        return SagaHandle(
            self.client,
            listener,
            envelope.event_id,
            execution.workflow_id,
            execution.run_id,
            outcomes=self._outcomes,
            envelope=envelope,
            is_repeat=not execution.started,
        )
