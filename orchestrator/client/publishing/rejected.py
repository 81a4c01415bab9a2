"""Stores messages that the bus rejected as dead letters: in the database if the bus has one, otherwise by a worker.

A worker gets the message through the workflow `PublishEvent`, which first tries to publish it again, because the worker
may run newer code.
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
from orchestrator.protocol.messages.dead_letters import DeadLetter, Inbound
from orchestrator.protocol.names import BUS_SOURCE
from orchestrator.protocol.reserved_names import PUBLISH_EVENT_WORKFLOW
from orchestrator.store.core.database import Database
from orchestrator.store.dead_letters.intake import store_dead_letter
from orchestrator.workflow.own_execution import raw_json
from orchestrator.workflow.system.publish import FROM_BUS

_LARGEST = 2 * 1024 * 1024 - 16 * 1024
"""The maximum size in bytes of a message that is sent as the start of an execution."""
_PATIENCE = 10.0
"""Seconds to wait for a worker."""


async def store_rejected(
    client: Client, database: Database | None, raw: bytes, fault: EventRejected, *, task_queue: str, source: str
) -> None:
    """Store a rejected message and raise the reason; return only if a worker could read it and has published it.

    Raises:
        EventRejected: why the message was rejected, with the number of its dead letter.
        Unreachable: the message could not be stored.
    """
    if database is not None:
        try:
            letter = DeadLetter(Inbound(BUS_SOURCE, 1, raw), fault.code, fault.message, source, run_id=str(uuid4()))
            number = await store_dead_letter(database, letter)
        except (SQLAlchemyError, OSError):
            pass  # unreachable, or without the tables yet; a worker can store the message
        else:
            raise _rejected(fault.code, fault.message, number) from fault
    if len(raw) > _LARGEST:
        message = (
            f"{fault.message}; it was not stored as a dead letter, because it is too large to send to a worker. Give "
            f"the bus its database, or send at most {_LARGEST:,} bytes"
        )
        raise EventRejected(fault.code, message) from fault
    workflow_id = f"{FROM_BUS}{uuid4()}"
    try:
        async with request_slot():
            storing: WorkflowHandle[Any, Any] = await client.start_workflow(
                PUBLISH_EVENT_WORKFLOW,
                raw_json(raw),
                id=workflow_id,
                task_queue=task_queue,
                static_summary="from a bus",
            )
        async with asyncio.timeout(_PATIENCE), long_poll_slot():
            await storing.result()
    except TimeoutError:
        message = f"{fault.message}; a worker will store it as a dead letter; until then it waits in {workflow_id}"
        raise EventRejected(fault.code, message) from fault
    except WorkflowFailureError as failure:
        raise _rejected_by_worker(failure) from fault
    except RPCError as unconfirmed:
        raise Unreachable(
            f"The message was rejected ({fault}), and Temporal did not confirm that it will be stored as a dead letter "
            f"({unconfirmed.message}). Send it again."
        ) from unconfirmed


def _rejected_by_worker(failure: WorkflowFailureError) -> EventRejected:
    cause = failure.cause
    if not isinstance(cause, ApplicationError):
        return EventRejected("event.rejected", str(cause))
    details: Any = cause.details[0] if cause.details else None
    return _rejected(cause.type or "event.rejected", cause.message, details if isinstance(details, int) else None)


def _rejected(code: str, message: str, number: int | None) -> EventRejected:
    suffix = "" if number is None else f" (stored as dead letter {number})"
    return EventRejected(code, f"{message}{suffix}", number)
