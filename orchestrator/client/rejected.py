"""Keeping what the bus could not take: in the database where there is one at hand, else by way of the workers.

For the latter the message is given to the workflow `PublishEvent`, which looks at it once more: a worker may know more.
"""

import asyncio
from typing import Any
from uuid import uuid4

from sqlalchemy.exc import SQLAlchemyError
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from orchestrator.client.in_flight import long_poll_slot, request_slot
from orchestrator.errors import EventRejected, Unreachable
from orchestrator.protocol.names import BUS_SOURCE
from orchestrator.protocol.reserved_names import PUBLISH_EVENT_WORKFLOW
from orchestrator.store.core.database import Database
from orchestrator.store.dead_letters.intake import keep_letter
from orchestrator.workflow.own_execution import raw_json
from orchestrator.workflow.system.publish import FROM_BUS

_LARGEST = 2 * 1024 * 1024 - 16 * 1024
"""Bytes that a start may carry."""
_PATIENCE = 10.0
"""Seconds that a worker is waited for."""


async def keep_rejected(
    client: Client, database: Database | None, raw: bytes, fault: EventRejected, *, task_queue: str, source: str
) -> None:
    """Keep a message, and tell its sender. Returns only if a worker could read it after all, and has published it.

    Raises:
        EventRejected: the fault, with the letter's number.
        Unreachable: it could not be kept.
    """
    if database is not None:
        try:
            number = await keep_letter(
                database,
                door=BUS_SOURCE,
                workflow_id=source,
                run_id=str(uuid4()),
                position=1,
                code=fault.code,
                reason=fault.message,
                raw=raw,
            )
        except (SQLAlchemyError, OSError):
            pass  # away, or without its tables yet: whoever works on it can keep it
        else:
            raise _told(fault.code, fault.message, number) from fault
    if len(raw) > _LARGEST:
        said = f"{fault.message}; and it is not kept: give the bus its database, or send at most {_LARGEST:,} bytes"
        raise EventRejected(fault.code, said) from fault
    workflow_id = f"{FROM_BUS}{uuid4()}"
    try:
        async with request_slot():
            waiting: WorkflowHandle[Any, Any] = await client.start_workflow(
                PUBLISH_EVENT_WORKFLOW,
                raw_json(raw),
                id=workflow_id,
                task_queue=task_queue,
                static_summary="from a bus",
            )
        async with asyncio.timeout(_PATIENCE), long_poll_slot():
            await waiting.result()
    except TimeoutError:
        said = f"{fault.message}; it is kept as a dead letter once a worker comes: it waits as {workflow_id}"
        raise EventRejected(fault.code, said) from fault
    except WorkflowFailureError as failure:
        raise _from(failure) from fault
    except RPCError as away:
        raise Unreachable(
            f"the message is no event that can be taken ({fault}), and Temporal did not say that it took it to be "
            f"kept ({away.message}). Send it again"
        ) from away


def _from(failure: WorkflowFailureError) -> EventRejected:
    cause = failure.cause
    if not isinstance(cause, ApplicationError):
        return EventRejected("event.rejected", str(cause))
    details: Any = cause.details[0] if cause.details else None
    return _told(cause.type or "event.rejected", cause.message, details if isinstance(details, int) else None)


def _told(code: str, message: str, number: int | None) -> EventRejected:
    kept = "" if number is None else f" (kept as dead letter {number})"
    return EventRejected(code, f"{message}{kept}", number)
