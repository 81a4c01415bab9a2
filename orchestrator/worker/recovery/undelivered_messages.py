"""Settles the undelivered messages of an execution that was cut off: sends events again and stores dead letters.

A saga's row proves that its event was accepted. An event without a row is sent again, to the saga's own execution. An
unreadable message becomes a dead letter with the origin that the execution would have given it, so it is stored once.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from temporalio.service import RPCError, RPCStatusCode

from orchestrator.client.publishing.partitions import PartitionSender, partition_of
from orchestrator.event import DomainEvent
from orchestrator.protocol.messages.dead_letters import DeadLetter, Inbound
from orchestrator.protocol.messages.envelope import Envelope, UnreadableEvent, read, saga_id
from orchestrator.protocol.messages.unwrapping import id_reused, is_same_event
from orchestrator.protocol.names import EVENT_SIGNAL, is_partition, own_workflow_id
from orchestrator.store.dead_letters.intake import store_dead_letter
from orchestrator.store.recovery import RecordedSaga, recorded_sagas, stored_positions
from orchestrator.worker.recovery.closed_runs import ClosedRun, messages_of, read_message
from orchestrator.worker.recovery.execution_status import status_of_execution
from orchestrator.worker.recovery.limits import SweepState
from orchestrator.worker.recovery.stalled_sagas import recover_saga
from orchestrator.workflow.own_execution import raw_json
from orchestrator.workflow.system.recovery import Action


@dataclass
class _Messages:
    """A run's messages, grouped by kind."""

    requests: dict[UUID, tuple[Inbound, Envelope, DomainEvent]] = field(
        default_factory=dict[UUID, tuple[Inbound, Envelope, DomainEvent]]
    )
    """The events that start a saga, keyed by the saga's id. Only the first event with an id is included."""
    awaited: list[tuple[Inbound, Envelope]] = field(default_factory=list[tuple[Inbound, Envelope]])
    """The events for which a saga may have waited."""
    unreadable: list[tuple[Inbound, UnreadableEvent]] = field(default_factory=list[tuple[Inbound, UnreadableEvent]])
    """The messages that become dead letters, each with its error."""
    newer: list[Envelope] = field(default_factory=list[Envelope])
    """The events whose version is newer than this worker knows. They get own executions, which wait for a newer
    worker."""


async def settle_messages(sweep: SweepState, run: ClosedRun) -> bool:
    """Make sure that no message of a run is lost.

    Returns:
        Whether all messages are settled. Otherwise the next sweep must settle the rest.

    Raises:
        temporalio.service.RPCError: the server does not answer, or did not accept a request.
    """
    try:
        history = await messages_of(sweep.client, run)
    except RPCError as fault:
        if fault.status is RPCStatusCode.NOT_FOUND:
            return True  # the history was deleted, so there are no messages to read
        raise
    messages = _sort(sweep, run, history)
    recorded = await recorded_sagas(sweep.database, messages.requests)
    requests_settled = await _settle_requests(sweep, run, messages, recorded)
    newer_settled = await _publish_newer(sweep, run, messages.newer)
    if not messages.requests:
        messages.unreadable += [(message, _not_awaited(envelope)) for message, envelope in messages.awaited]
    unreadable_settled = await _keep(sweep, run, messages.unreadable)
    awaited_settled = await _send_awaited(sweep, run, messages, recorded)
    return requests_settled and newer_settled and unreadable_settled and awaited_settled


def _sort(sweep: SweepState, run: ClosedRun, history: Sequence[Inbound]) -> _Messages:
    orchestrator = sweep.catalog.orchestrators[run.orchestrator]
    messages = _Messages()
    for message in history:
        if not message.source:
            continue  # an open saga, which recovery finds by its row
        try:
            envelope, event = read_message(orchestrator, message)
        except UnreadableEvent as fault:
            # If an own execution waited for a newer worker and was terminated, an operator ended it, unless it was
            # moved.
            if fault.is_newer and (run.was_moved or is_partition(run.workflow_id)):
                messages.newer.append(read(message.raw))
            else:
                messages.unreadable.append((message, fault))
            continue
        if not isinstance(event, orchestrator.requests):
            messages.awaited.append((message, envelope))
            continue
        key = saga_id(run.orchestrator, envelope.event_id)
        if key not in messages.requests:
            messages.requests[key] = (message, envelope, event)
        elif messages.requests[key][2] != event:
            messages.unreadable.append((message, id_reused(envelope.event_id)))
    return messages


async def _settle_requests(
    sweep: SweepState, run: ClosedRun, messages: _Messages, recorded: Mapping[UUID, RecordedSaga]
) -> bool:
    """Publish the events without a saga, and recover the unfinished sagas of the others.

    An event whose id was already used for another event is added to the unreadable messages.
    """
    requests = sweep.catalog.orchestrators[run.orchestrator].requests
    settled = True
    unopened: list[tuple[Envelope, DomainEvent]] = []
    for key, (message, envelope, event) in messages.requests.items():
        row = recorded.get(key)
        if row is None and is_partition(run.workflow_id):
            unopened.append((envelope, event))
        elif row is None:
            settled &= await _publish(sweep, run, envelope)
        elif not is_same_event(envelope, row.content_digest, row.envelope, *requests):
            messages.unreadable.append((message, id_reused(envelope.event_id)))
        elif not row.phase.is_final and key not in sweep.seen:
            # Recover it now, because the saga would count as stalled only after the time for which it waits.
            settled &= await recover_saga(sweep, row) is not Action.POSTPONE
    await _publish_in_order(sweep, run, unopened)
    return settled


async def _publish_newer(sweep: SweepState, run: ClosedRun, newer: Sequence[Envelope]) -> bool:
    """Publish the events of newer versions that have no saga yet."""
    settled = True
    opened = await recorded_sagas(sweep.database, [saga_id(run.orchestrator, envelope.event_id) for envelope in newer])
    for envelope in newer:
        if saga_id(run.orchestrator, envelope.event_id) not in opened:
            settled &= await _publish(sweep, run, envelope)
    return settled


async def _send_awaited(
    sweep: SweepState, run: ClosedRun, messages: _Messages, recorded: Mapping[UUID, RecordedSaga]
) -> bool:
    """Send events for which the run's saga may wait to the execution that drives it now, which drops repeats."""
    if not messages.awaited or not messages.requests:
        return True
    key, (_, request, _) = next(iter(messages.requests.items()))
    if key in recorded and recorded[key].phase.is_final:
        return True
    own = await status_of_execution(sweep.client, own_workflow_id(run.orchestrator, request.event_id))
    if sweep.dry_run:
        return True
    if not own.runs:
        return False  # the saga has not been recovered yet
    handle = sweep.client.get_workflow_handle(own.workflow_id)
    for _, envelope in messages.awaited:
        await handle.signal(EVENT_SIGNAL, raw_json(envelope.text.encode()))
    return True


def _not_awaited(envelope: Envelope) -> UnreadableEvent:
    return UnreadableEvent("event.not_awaited", f"{envelope.event_type}: there was no saga that could wait for it")


async def _publish(sweep: SweepState, run: ClosedRun, envelope: Envelope) -> bool:
    own = await status_of_execution(sweep.client, own_workflow_id(run.orchestrator, envelope.event_id))
    if own.runs:
        return True  # the saga's execution has received the event, and will write the row
    why = f"{run.workflow_id} was cut off before it processed the event"
    async with sweep.slot() as has_slot:
        if not has_slot:
            sweep.postpone(own.workflow_id, why)
            return False
        await sweep.drive(run.orchestrator, envelope, own)
    sweep.note(Action.PUBLISH, own.workflow_id, why)
    return True


async def _publish_in_order(sweep: SweepState, run: ClosedRun, events: Sequence[tuple[Envelope, DomainEvent]]) -> None:
    """Publish the events whose sagas a partition had not opened, in order, routed as new events are."""
    orchestrator = sweep.catalog.orchestrators[run.orchestrator]
    why = f"{run.workflow_id} was cut off before it processed the event"
    sender = PartitionSender(sweep.client, sweep.task_queue)
    targets: dict[str, list[Envelope]] = {}
    for envelope, event in events:
        if orchestrator.partitions is None:
            await _publish(sweep, run, envelope)
            continue
        target = partition_of(orchestrator, event, envelope)
        targets.setdefault(target, []).append(envelope)
        sweep.note(Action.PUBLISH, target, f"{why} {envelope.event_id}")
    if not sweep.dry_run:
        # The ceiling does not apply, because later events would overtake postponed ones. Signals are cheap.
        for target, envelopes in targets.items():
            await asyncio.gather(*(sender.send(run.orchestrator, target, envelope) for envelope in envelopes))


async def _keep(sweep: SweepState, run: ClosedRun, unreadable: Sequence[tuple[Inbound, UnreadableEvent]]) -> bool:
    if not unreadable:
        return True
    if (await status_of_execution(sweep.client, run.workflow_id, run.run_id)).reset_run_id:
        return True  # the run that continues after the reset has the same messages
    kept = await stored_positions(sweep.database, run.workflow_id, run.run_id)
    for message, fault in unreadable:
        if message.position in kept:
            continue
        async with sweep.slot() as has_slot:
            if not has_slot:
                sweep.postpone(run.workflow_id, f"{fault}")
                return False
            if not sweep.dry_run:
                letter = DeadLetter(message, fault.code, fault.message, run.workflow_id, run.run_id)
                await store_dead_letter(sweep.database, letter)
        sweep.note(Action.KEEP, run.workflow_id, f"{fault}")
    return True
