"""Names on the wire and in the Web UI. Changing one breaks running executions and recorded histories."""

import re
from hashlib import sha256

_PARTITION = re.compile(r"[^\W\d]\w*/partition/[1-9][0-9]*-of-[1-9][0-9]*")

BEGIN_UNDO = "saga.turn_to_undoing"
FINISH = "saga.finish"
MARK_STUCK = "saga.mark_stuck"
DEAD_LETTER = "saga.keep_dead_letter"
BEGIN_WAIT = "saga.begin_wait"
END_WAIT = "saga.end_wait"
DRIVE_WAVE = "saga.drive_wave"

EVENT_SIGNAL = "event"
"""Carries an envelope; an execution is started with it."""
RETRY_SIGNAL = "retry"
"""Takes a stuck saga up again, and tries at once what waits for its next attempt."""
WAKE_SIGNAL = "wake"
"""A saga that waits for a lock looks at once whether it holds it now."""

UNDO_SIGNAL = "undo"
"""The database has decided: an execution that has this signal before it runs undoes without the author's code."""

START_SOURCE = "start"
"""Where a message came in that was a start argument; other doors are named after their signal."""
UPDATE_SOURCE = "update"
"""Where a message came in that was sent by an update, whatever its name."""
BUS_SOURCE = "bus"
"""Where a message came in that another system gave to the bus."""
EVENT_SOURCES = (START_SOURCE, EVENT_SIGNAL, UPDATE_SOURCE, BUS_SOURCE)
"""Where events are taken."""

OUTCOME_MEMO = "outcome"
"""A cancelled execution has no result, so its outcome stands here."""


def own_workflow_id(orchestrator: str, event_id: str) -> str:
    """Id of a saga's own execution: `MoneyTransfer/event/<event id>`."""
    return f"{orchestrator}/event/{event_id}"


def partition_workflow_id(orchestrator: str, number: int, count: int) -> str:
    """Id of a partition: `MoneyTransfer/partition/3-of-8`."""
    return f"{orchestrator}/partition/{number}-of-{count}"


def partition_for(orchestrator: str, key: str, count: int) -> str:
    """Id of the partition that carries the events of a key: an ordering key, else an event's id.

    The number is the key's SHA-256 modulo the count. Another count is another set of partitions, by their ids: those of
    the old count take what they were sent, and end when they have been idle for a while.
    """
    number = int.from_bytes(sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big") % count + 1
    return partition_workflow_id(orchestrator, number, count)


def is_partition(workflow_id: str) -> bool:
    """Whether an execution is a partition, by its id."""
    return _PARTITION.fullmatch(workflow_id) is not None
