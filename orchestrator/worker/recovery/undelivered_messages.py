"""What an execution that was cut off has left: events that nobody took, and messages that are none.

A saga's row is the proof that its event was taken. An event without one is sent again, to the saga's own execution;
what cannot be read is kept under the same origin as the execution itself would have kept it, so it is kept once.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from temporalio.service import RPCError, RPCStatusCode

from orchestrator.client.partitions import PartitionSender, partition_of
from orchestrator.event import DomainEvent
from orchestrator.protocol.dead_letters import pieces
from orchestrator.protocol.envelope import Envelope, UnreadableEvent, read, saga_id
from orchestrator.protocol.names import EVENT_SIGNAL, is_partition, own_workflow_id
from orchestrator.protocol.unwrapping import id_reused, is_same_event
from orchestrator.store.dead_letters.intake import keep_piece
from orchestrator.store.recovery import kept_positions, recorded_sagas
from orchestrator.worker.recovery.closed_runs import ClosedRun, Message, messages_of, read_message
from orchestrator.worker.recovery.execution_status import status_of_execution
from orchestrator.worker.recovery.limits import Sweeping
from orchestrator.worker.recovery.stalled_sagas import recover_saga
from orchestrator.workflow.own_execution import raw_json
from orchestrator.workflow.system.recovery import Action


@dataclass
class _Left:
    """A run's messages, sorted by what they are."""

    requests: dict[UUID, tuple[Message, Envelope, DomainEvent]] = field(
        default_factory=dict[UUID, tuple[Message, Envelope, DomainEvent]]
    )
    """Events that start a saga, the first of each id."""
    awaited: list[tuple[Message, Envelope]] = field(default_factory=list[tuple[Message, Envelope]])
    """Events that a saga may have waited for."""
    unreadable: list[tuple[Message, UnreadableEvent]] = field(default_factory=list[tuple[Message, UnreadableEvent]])
    newer: list[Envelope] = field(default_factory=list[Envelope])
    """Of a partition, and of newer versions than are known here: executions of their own wait for a newer worker."""


async def settle_messages(sweeping: Sweeping, run: ClosedRun) -> bool:
    """See that nothing of a run is lost.

    Returns:
        Whether all of it is settled; if not, the next sweep has to look again.

    Raises:
        temporalio.service.RPCError: the server does not answer, or did not take it.
    """
    try:
        messages = await messages_of(sweeping.client, run)
    except RPCError as fault:
        if fault.status is RPCStatusCode.NOT_FOUND:
            return True  # deleted meanwhile
        raise
    requests = sweeping.catalog.orchestrators[run.orchestrator].requests
    left = _sorted(sweeping, run, messages)
    known = await recorded_sagas(sweeping.database, left.requests)
    settled = True
    partition = is_partition(run.workflow_id)
    unopened: list[tuple[Envelope, DomainEvent]] = []
    for key, (message, envelope, event) in left.requests.items():
        recorded = known.get(key)
        if recorded is None and partition:
            unopened.append((envelope, event))
        elif recorded is None:
            settled &= await _publish(sweeping, run, envelope)
        elif not is_same_event(envelope, recorded.content_digest, recorded.envelope, *requests):
            left.unreadable.append((message, id_reused(envelope.event_id)))
        elif not recorded.phase.is_final and key not in sweeping.seen:
            # Nobody would look at it before the time that it waits for.
            settled &= await recover_saga(sweeping, recorded) is not Action.POSTPONE
    await _publish_in_order(sweeping, run, unopened)
    opened = await recorded_sagas(sweeping.database, [saga_id(run.orchestrator, one.event_id) for one in left.newer])
    for envelope in left.newer:
        if saga_id(run.orchestrator, envelope.event_id) not in opened:
            settled &= await _publish(sweeping, run, envelope)
    if not left.requests:
        left.unreadable += [(message, _not_awaited(envelope)) for message, envelope in left.awaited]
    settled &= await _keep(sweeping, run, left.unreadable)
    if left.awaited and left.requests:
        key, (_, first, _) = next(iter(left.requests.items()))
        if key not in known or not known[key].phase.is_final:
            settled &= await _hand_over(sweeping, run, first, [envelope for _, envelope in left.awaited])
    return settled


def _sorted(sweeping: Sweeping, run: ClosedRun, messages: Sequence[Message]) -> _Left:
    orchestrator = sweeping.catalog.orchestrators[run.orchestrator]
    left = _Left()
    for message in messages:
        if not message.door:
            continue  # open: it is found by its row
        try:
            envelope, event = read_message(orchestrator, message)
        except UnreadableEvent as fault:
            # An execution of its own that was ended while it waited for a newer worker was ended by a person.
            if fault.is_newer and (run.was_moved or is_partition(run.workflow_id)):
                left.newer.append(read(message.raw))
            else:
                left.unreadable.append((message, fault))
            continue
        if not isinstance(event, orchestrator.requests):
            left.awaited.append((message, envelope))
            continue
        key = saga_id(run.orchestrator, envelope.event_id)
        if key not in left.requests:
            left.requests[key] = (message, envelope, event)
        elif left.requests[key][2] != event:
            left.unreadable.append((message, id_reused(envelope.event_id)))
    return left


def _not_awaited(envelope: Envelope) -> UnreadableEvent:
    return UnreadableEvent("event.not_awaited", f"{envelope.event_type}: no saga was there that could wait for it")


async def _publish(sweeping: Sweeping, run: ClosedRun, envelope: Envelope) -> bool:
    own = await status_of_execution(sweeping.client, own_workflow_id(run.orchestrator, envelope.event_id))
    if own.runs:
        return True  # it has the event, by signal or start, and will write the row
    why = f"{run.workflow_id} was cut off before it took the event"
    async with sweeping.place() as has_place:
        if not has_place:
            sweeping.postpone(own.workflow_id, why)
            return False
        await sweeping.drive(run.orchestrator, envelope, own)
    sweeping.note(Action.PUBLISH, own.workflow_id, why)
    return True


async def _publish_in_order(sweeping: Sweeping, run: ClosedRun, events: Sequence[tuple[Envelope, DomainEvent]]) -> None:
    """What a partition had not opened goes to where it would be published today, in the order in which it came."""
    orchestrator = sweeping.catalog.orchestrators[run.orchestrator]
    why = f"{run.workflow_id} was cut off before it took the event"
    sender = PartitionSender(sweeping.client, sweeping.task_queue)
    targets: dict[str, list[Envelope]] = {}
    for envelope, event in events:
        if orchestrator.partitions is None:
            await _publish(sweeping, run, envelope)
            continue
        target = partition_of(orchestrator, event, envelope)
        targets.setdefault(target, []).append(envelope)
        sweeping.note(Action.PUBLISH, target, f"{why} {envelope.event_id}")
    if not sweeping.dry_run:
        # Signals are cheap, and a ceiling would let later events overtake those that are put off.
        for target, envelopes in targets.items():
            await asyncio.gather(*(sender.send(run.orchestrator, target, envelope) for envelope in envelopes))


async def _keep(sweeping: Sweeping, run: ClosedRun, unreadable: Sequence[tuple[Message, UnreadableEvent]]) -> bool:
    if not unreadable:
        return True
    if (await status_of_execution(sweeping.client, run.workflow_id, run.run_id)).reset_run_id:
        return True  # the run that goes on instead has the same messages
    kept = await kept_positions(sweeping.database, run.workflow_id, run.run_id)
    for message, fault in unreadable:
        if message.position in kept:
            continue
        async with sweeping.place() as has_place:
            if not has_place:
                sweeping.postpone(run.workflow_id, f"{fault}")
                return False
            if not sweeping.dry_run:
                await _keep_one(sweeping, run, message, fault)
        sweeping.note(Action.KEEP, run.workflow_id, f"{fault}")
    return True


async def _keep_one(sweeping: Sweeping, run: ClosedRun, message: Message, fault: UnreadableEvent) -> None:
    cut = pieces(message.raw, source=message.door, position=message.position, code=fault.code, reason=fault.message)
    for piece in cut:
        await keep_piece(
            sweeping.database,
            door=piece.door,
            workflow_id=run.workflow_id,
            run_id=run.run_id,
            position=piece.position,
            code=piece.code,
            reason=piece.reason,
            size=piece.size,
            offset=piece.offset,
            raw=piece.raw,
        )


async def _hand_over(sweeping: Sweeping, run: ClosedRun, first: Envelope, awaited: Sequence[Envelope]) -> bool:
    """Send what a saga may wait for to the execution that drives it now; what it has already is dropped there."""
    own = await status_of_execution(sweeping.client, own_workflow_id(run.orchestrator, first.event_id))
    if sweeping.dry_run:
        return True
    if not own.runs:
        return False  # its saga is not recovered yet
    handle = sweeping.client.get_workflow_handle(own.workflow_id)
    for envelope in awaited:
        await handle.signal(EVENT_SIGNAL, raw_json(envelope.text.encode()))
    return True
