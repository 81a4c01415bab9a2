"""Names in the wire format and in the Web UI. Changing one breaks running executions and the replay of histories."""

import re
from hashlib import sha256

_PARTITION = re.compile(r"[^\W\d]\w*/partition/[1-9][0-9]*-of-[1-9][0-9]*")

BEGIN_UNDO = "saga.begin_undo"
FINISH = "saga.finish"
MARK_STUCK = "saga.mark_stuck"
DEAD_LETTER = "saga.store_dead_letter"
BEGIN_WAIT = "saga.begin_wait"
END_WAIT = "saga.end_wait"
DRIVE_WAVE = "saga.drive_wave"

EVENT_SIGNAL = "event"
"""The signal that carries an event's envelope; an execution is started together with it."""
RETRY_SIGNAL = "retry"
"""The signal that resumes a stuck saga and immediately retries whatever waits for its next attempt."""
WAKE_SIGNAL = "wake"
"""The signal that makes a saga check immediately whether it now holds the locks it waits for."""

UNDO_SIGNAL = "undo"
"""The signal that the saga must be undone. An execution that receives it before its first task undoes the saga without
calling the author's code."""

START_SOURCE = "start"
"""The source of a message that was a start argument. The source of a signal's message is the signal's name."""
UPDATE_SOURCE = "update"
"""The source of a message that came by an update, whatever the update's name."""
BUS_SOURCE = "bus"
"""The source of a message that another system passed to the event bus."""
OUTBOX_SOURCE = "outbox"
"""The source of a dead letter that could not be sent from an outbox."""
EVENT_SOURCES = (START_SOURCE, EVENT_SIGNAL, UPDATE_SOURCE, BUS_SOURCE)
"""The sources from which events are accepted."""

OUTCOME_MEMO = "outcome"
"""The memo with the outcome of a cancelled execution, because such an execution has no result."""


def own_workflow_id(orchestrator: str, event_id: str) -> str:
    """Return the id of a saga's own execution, `MoneyTransfer/event/<event id>`."""
    return f"{orchestrator}/event/{event_id}"


def partition_workflow_id(orchestrator: str, number: int, count: int) -> str:
    """Return the id of a partition, such as `MoneyTransfer/partition/3-of-8`."""
    return f"{orchestrator}/partition/{number}-of-{count}"


def partition_for(orchestrator: str, key: str, count: int) -> str:
    """Return the id of the partition for a key, which is an ordering key or else an event's id.

    The number is the key's SHA-256 modulo the count. Another count means other partitions, because it is part of their
    ids. Partitions of the old count finish the events that they have received, and end after they have been idle for a
    while.
    """
    number = int.from_bytes(sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big") % count + 1
    return partition_workflow_id(orchestrator, number, count)


def is_partition(workflow_id: str) -> bool:
    """Whether a workflow id is that of a partition."""
    return _PARTITION.fullmatch(workflow_id) is not None
