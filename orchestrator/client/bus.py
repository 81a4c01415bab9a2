"""The event bus, which routes a domain event to every orchestrator that listens to it, by signal-with-start.

An event is *accepted* when the call has returned: Temporal has it, and it will end in exactly one outcome. An invalid
event raises an error here, and then nothing is sent.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Self, TypeVar, cast

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.client.connecting import Connecting
from orchestrator.client.connection import connect_temporal
from orchestrator.client.executions.own_execution import ensure_own_execution
from orchestrator.client.handle import SagaHandle
from orchestrator.client.in_flight import request_slot
from orchestrator.client.listening import EventLog, Listening
from orchestrator.client.outcomes.lookup import DatabaseLookup, WorkerLookup, is_of
from orchestrator.client.outcomes.recorded import RecordedOutcomes
from orchestrator.client.publishing.delivery import deliver, deliver_many, unconfirmed
from orchestrator.client.publishing.event_checks import Addressed, address, checked_envelope, envelope_of, read_event
from orchestrator.client.publishing.partitions import PartitionSender, partition_of
from orchestrator.client.publishing.rejected import store_rejected
from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.errors import EventRejected, EventTimeout, UsageError
from orchestrator.event import DomainEvent, FailureEvent
from orchestrator.orchestrator import Orchestrator
from orchestrator.protocol.messages.envelope import Envelope
from orchestrator.protocol.messages.event_ids import new_event_id
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
    """Publishes events and waits for the outcomes of their sagas.

        async with EventBus.connect() as bus:
            completed = await bus.execute(MoneyTransfer, MoneyTransferRequested(...))

    Any number of calls may be made concurrently; requests beyond a limit wait for a free slot. A bus belongs to the
    event loop in which it is first used; in another one, and after a fork, each call raises `UsageError`.

    Args:
        client: a client that was created with Temporal's `pydantic_data_converter`.
        catalog: the event types and the orchestrators that listen to them.
        task_queue: the workers' task queue.
        source: the CloudEvents `source` of the published events.
        database: the home database, or home and the remote databases. Outcomes that executions do not return, such as
            those of sagas in partitions, are read there. None: workers read them, through Temporal.
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
            "Create one with `EventBus.connect()` in each event loop, and after a fork.",
        )
        databases = None if database is None else Databases.of(database)
        self._database = None if databases is None else databases.home
        self._lookup = WorkerLookup(client, task_queue) if databases is None else DatabaseLookup(databases)
        self._outcomes = RecordedOutcomes(self._lookup, binding=self._loop)
        self._log = EventLog(self._lookup, self._loop)
        self._partitions = PartitionSender(client, task_queue)

    @classmethod
    def connect(cls, settings: Settings | None = None, *, catalog: Catalog | None = None) -> Connecting[Self]:
        """Create a bus from the environment's settings: with `async with`, or with `await` and a `close` at the end.

        The bus reads outcomes from the home database if `ORCHESTRATOR_DATABASE_URL` is set, or if the embedded database
        of this Temporal server is in the state folder. Otherwise workers read them, through Temporal. A configured
        database that does not answer is reported only when something has to be read from it.

        Raises:
            Unreachable: Temporal cannot be reached.
            DefinitionError: the application's events or orchestrators have definition faults.
        """
        return Connecting(lambda: cls._connected(settings, catalog))

    @classmethod
    async def _connected(cls, settings: Settings | None, catalog: Catalog | None) -> Self:
        settings = settings or Settings()
        known = catalog or Catalog.discover(settings.packages)
        databases = None
        if settings.has_database:
            databases = Databases.at(settings.resolved_database_url, settings.databases, pool_size=2)
        client = await connect_temporal(settings)
        if databases is not None and not await is_of(databases.home, client):
            if settings.database_url:
                _logger.warning(
                    "The database at %s belongs to another Temporal cluster or namespace, so outcomes are read by "
                    "workers. Correct ORCHESTRATOR_DATABASE_URL or the Temporal address.",
                    databases.home.shown,
                )
            await databases.close()  # without a warning if it is a left-over embedded database
            databases = None
        bus = cls(client, known, task_queue=settings.task_queue, database=databases)
        bus._loop.check()
        return bus

    async def close(self) -> None:
        """Close the connections for reading outcomes and events; calls that wait for either are cancelled."""
        self._loop.check()
        await self._outcomes.close()
        await self._log.close()
        await self._lookup.close()

    def read(self, event_type: str, payload: str | bytes) -> DomainEvent:
        """Parse an event from its type and the JSON of its fields, as strictly as a worker does.

        Raises:
            EventRejected: `event.unknown_type`, `event.too_large`, or `event.invalid` naming each wrong field.
        """
        return read_event(self.catalog, event_type, payload)

    async def publish(
        self, event: DomainEvent, *, event_id: str | None = None, time: datetime | None = None
    ) -> list[SagaHandle[Any]]:
        """Send an event to every orchestrator that listens to it.

        Args:
            event: the event.
            event_id: the idempotency key; an event that is published again under the same id is not processed again.
                Generated by default.
            time: when the event happened; now by default.

        Returns:
            A handle for each saga, in the order of the orchestrators' names. Every listener has accepted the event.

        Raises:
            EventRejected: the event is invalid or too large, has no listener, or its id was used for other content.
            PublishIncomplete: the server failed after some of the listeners had accepted the event.
            Unreachable: the server could not be reached, and no listener is known to have accepted the event.
        """
        self._loop.check()
        event_id = new_event_id() if event_id is None else event_id  # an empty id is refused like any other invalid one
        envelope = envelope_of(self.catalog, event, event_id=event_id, source=self.source, time=time)
        return await deliver(self._send, Addressed(envelope, event, self.catalog.listeners(type(event))))

    async def publish_raw(self, raw: bytes | str) -> list[SagaHandle[Any]]:
        """Send another system's message unchanged; it must be a CloudEvents 1.0 envelope in JSON.

        The id in the envelope is the idempotency key. A message that cannot be read or has no listener is stored as a
        dead letter.

        Returns:
            A handle for each saga, in the order of the orchestrators' names; empty if only a worker could read it.

        Raises:
            EventRejected: the message was not accepted. `dead_letter` is the number of its dead letter. It is None if a
                worker will store the message later, or if it is too large to send to a worker and there is no database.
            PublishIncomplete: as in `publish`.
            Unreachable: the server could not be reached, and the message was neither accepted nor stored.
        """
        try:
            return await self.publish_envelope(raw)
        except EventRejected as fault:
            message = raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass")
            await store_rejected(
                self.client, self._database, message, fault, task_queue=self.task_queue, source=self.source
            )
            return []

    async def publish_envelope(self, raw: bytes | str) -> list[SagaHandle[Any]]:
        """Send an event in its envelope to every listener, as `publish_raw` does, but store no dead letter.

        Raises:
            EventRejected: the event cannot be read, has no listener, or its id was used for other content.
            PublishIncomplete, Unreachable: as in `publish`.
        """
        self._loop.check()
        return await deliver(self._send, address(self.catalog, raw))

    async def publish_many(
        self,
        events: Iterable[DomainEvent],
        *,
        event_ids: Iterable[str] | None = None,
        time: datetime | None = None,
    ) -> list[list[SagaHandle[Any]]]:
        """Send many events; those for the same partition share signals and keep their order.

        All events are checked before the first is sent.

        Args:
            events: the events, in order.
            event_ids: an idempotency key for each event; generated by default.
            time: when all of them happened; now by default.

        Returns:
            The handles of each event, as from `publish`. Every event has been accepted.

        Raises:
            UsageError: the number of ids differs from the number of events.
            EventRejected: one of the events is invalid or too large, or has no listener; nothing was sent.
            PublishIncomplete, Unreachable: the server failed before all events were accepted; the message names those
                that were not.
        """
        self._loop.check()
        events = list(events)
        ids = [new_event_id() for _ in events] if event_ids is None else list(event_ids)
        if len(ids) != len(events):
            raise UsageError(f"`publish_many` got {len(events)} events and {len(ids)} event ids; pass one id per event")
        outgoing: list[Addressed] = []
        for event, event_id in zip(events, ids, strict=True):
            envelope = envelope_of(self.catalog, event, event_id=event_id, source=self.source, time=time)
            outgoing.append(Addressed(envelope, event, self.catalog.listeners(type(event))))
        return await deliver_many(self._send, outgoing)

    async def execute(
        self,
        orchestrator: type[Orchestrator[Req, Comp, Fail]],
        event: Req,
        *,
        event_id: str | None = None,
        time: datetime | None = None,
        timeout: timedelta | None = None,
    ) -> Comp:
        """Publish an event and wait for the result of one of its listeners.

        Args:
            orchestrator: the listener to wait for; every other listener gets the event as well.
            event: the event.
            event_id: the idempotency key; generated by default.
            time: when the event happened; now by default.
            timeout: how long to wait. The saga continues after the timeout.

        Returns:
            The completed event.

        Raises:
            SagaFailed: the saga was undone; its `failure` is the failed event.
            NotFinished: the saga did not end within the timeout.
            EventRejected, PublishIncomplete, Unreachable: as in `publish`.
        """
        handles = await self.publish(event, event_id=event_id, time=time)
        for handle in handles:
            if handle.orchestrator is orchestrator:
                return cast(Comp, await handle.result(timeout=timeout))
        raise EventRejected("event.no_listener", f"{orchestrator.__name__} does not listen to {event.type_name()}")

    def saga(self, orchestrator: type[Orchestrator[Any, Comp, Any]], event_id: str) -> SagaHandle[Comp]:
        """Return a handle to an existing saga, whichever process started it.

        This sends no request. If there is no such saga, the handle's methods raise `SagaUnknown`.

        Args:
            orchestrator: the saga's orchestrator.
            event_id: the id of the event that started the saga.
        """
        workflow_id = own_workflow_id(orchestrator.__name__, event_id)
        return SagaHandle(self.client, orchestrator, event_id, workflow_id, outcomes=self._outcomes)

    async def next_event(
        self,
        event: type[Heard],
        *,
        matching: Callable[[Heard], bool] | None = None,
        since: datetime | None = None,
        timeout: timedelta | None = None,
    ) -> Heard:
        """Wait for the next event of a type: one that starts a saga, is an outcome, or is in an outbox.

        Args:
            event: the event class; events of older versions are upcast.
            matching: a condition on the event; by default any event matches.
            since: also consider events that were recorded at this time or later; by default only events from now on.
            timeout: how long to wait.

        Raises:
            EventTimeout: no matching event was recorded within the timeout.
            Unreachable: the database or Temporal could not be reached even once.
            UsageError: `since` has no time zone.
        """
        listening = self.listening(event, matching=matching, since=since)
        try:
            async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
                async with listening:
                    return await listening.next()
        except TimeoutError:
            raise EventTimeout(f"no matching {event.type_name()} was recorded within {timeout}") from None

    def listening(
        self, event: type[Heard], *, matching: Callable[[Heard], bool] | None = None, since: datetime | None = None
    ) -> Listening[Heard]:
        """Receive the events of a type one after the other without missing any in between. See `Listening`.

        Raises:
            UsageError: `since` has no time zone.
        """
        return Listening(self._log, event, matching, since)

    async def send(
        self,
        event: DomainEvent,
        *,
        to: type[Orchestrator[Any, Any, Any]],
        triggering_event_id: str,
        event_id: str | None = None,
        time: datetime | None = None,
    ) -> None:
        """Send an event to one saga that waits for it with `saga.wait_for`, now or later.

        Args:
            event: an event of a type that the orchestrator lists in `awaited`.
            to: the saga's orchestrator.
            triggering_event_id: the id of the event that started the saga.
            event_id: the idempotency key; an event that is sent again under the same id is received once. Generated by
                default.
            time: when the event happened; now by default.

        Raises:
            EventRejected: `event.not_awaited` if the orchestrator does not wait for this event type; `saga.not_running`
                if the saga does not exist or has ended; or the event is invalid or too large.
            Unreachable: the server did not confirm the event.
        """
        self._loop.check()
        name = event.type_name()
        if type(event) not in to.awaited:
            awaited = ", ".join(sorted(awaited.type_name() for awaited in to.awaited)) or "none"
            raise EventRejected("event.not_awaited", f"{to.__name__} does not wait for {name}; it waits for {awaited}")
        event_id = new_event_id() if event_id is None else event_id
        envelope = checked_envelope(event, event_id=event_id, source=self.source, time=time)
        await self._signal(to, triggering_event_id, event, envelope)

    async def _signal(
        self, to: AnyOrchestrator, triggering_event_id: str, event: DomainEvent, envelope: Envelope
    ) -> None:
        handle = self.client.get_workflow_handle(own_workflow_id(to.__name__, triggering_event_id))
        try:
            async with request_slot():
                await handle.signal(EVENT_SIGNAL, raw_json(envelope.text.encode()))
        except RPCError as fault:
            if fault.status is RPCStatusCode.NOT_FOUND:
                raise EventRejected(
                    "saga.not_running",
                    f"{event.type_name()} was not sent, because {to.__name__} has no running saga for the event "
                    f"{triggering_event_id}; it has ended, or was never started",
                ) from fault
            raise unconfirmed(envelope, fault, "Send") from fault

    async def _send(self, listener: AnyOrchestrator, event: DomainEvent | None, envelope: Envelope) -> SagaHandle[Any]:
        # An event that only a newer worker can read waits in its own execution; a partition would move it there anyway.
        if listener.partitions is not None and event is not None:
            workflow_id = partition_of(listener, event, envelope)
            run_id = await self._partitions.send(listener.__name__, workflow_id, envelope)
            is_repeat = False
        else:
            execution = await ensure_own_execution(self.client, listener.__name__, envelope, self.task_queue)
            workflow_id, run_id, is_repeat = execution.workflow_id, execution.run_id, not execution.started
        return SagaHandle(
            self.client,
            listener,
            envelope.event_id,
            workflow_id,
            run_id,
            outcomes=self._outcomes,
            envelope=envelope,
            is_repeat=is_repeat,
        )
