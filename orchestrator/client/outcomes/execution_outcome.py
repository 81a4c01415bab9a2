"""Reads a saga's outcome from the execution that drove it, however that execution ended.

An execution drives a saga but is not the saga. One that was terminated, cancelled by hand, reset, deleted or lost has
no outcome; the saga's row has it then.
"""

import asyncio
from enum import Enum
from typing import Any

from pydantic import ValidationError
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.client.in_flight import long_poll_slot
from orchestrator.errors import EventRejected, Unreachable
from orchestrator.protocol.commands import Outcome
from orchestrator.protocol.names import OUTCOME_MEMO

_FATAL = (
    RPCStatusCode.INVALID_ARGUMENT,
    RPCStatusCode.PERMISSION_DENIED,
    RPCStatusCode.UNAUTHENTICATED,
    RPCStatusCode.UNIMPLEMENTED,
)
"""Errors that a retry would not fix."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two attempts to reach an unreachable server."""
_SLOT_SHARE = 1.0
"""Seconds after which a waiting request releases its slot if others queue for one."""


class NoOutcome(Enum):
    """Why an execution has no outcome of its saga."""

    ENDED = "ended"
    """The execution ended without an outcome; another driver will finish the saga."""
    GONE = "gone"
    """The execution does not exist, or no longer exists."""


def is_fatal(fault: RPCError) -> bool:
    """Whether the server answered with an error that a retry would not fix."""
    return fault.status in _FATAL


async def outcome_of_execution(
    client: Client, workflow_id: str, run_id: str | None
) -> Outcome | EventRejected | NoOutcome:
    """Wait for an execution to end, across lost connections and restarts of the server.

    Returns:
        The outcome, the reason why the execution rejected the event, or why it has no outcome.

    Raises:
        Unreachable: the server refuses the request.
    """
    handle = client.get_workflow_handle(workflow_id, run_id=run_id)
    pause = _SHORTEST_PAUSE
    while True:
        try:
            return Outcome.model_validate(await _result_sharing_slot(handle))
        except ValidationError:
            return NoOutcome.ENDED  # another application's workflow under this id
        except WorkflowFailureError as failure:
            match failure.cause:
                case ApplicationError() as error:
                    return _from_failure(error)
                case CancelledError():
                    memo = await _memo(client, workflow_id, run_id)
                    return NoOutcome.ENDED if memo is None else memo
                case _:
                    return NoOutcome.ENDED
        except RPCError as fault:
            if fault.status is RPCStatusCode.NOT_FOUND:
                return NoOutcome.GONE
            if is_fatal(fault):
                raise Unreachable(
                    f"Temporal refuses to return the result of {workflow_id} ({fault.message}). Correct this client's "
                    "permissions or its version."
                ) from fault
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


async def _result_sharing_slot(handle: WorkflowHandle[Any, Any]) -> Any:
    """Wait for an execution's result, and share the slot, because this may take days while other executions end."""
    slot = long_poll_slot()
    while True:
        async with slot:
            waiting = asyncio.ensure_future(handle.result())
            try:
                while not waiting.done():
                    await asyncio.wait({waiting}, timeout=_SLOT_SHARE)
                    if slot.locked():
                        break
                if waiting.done():
                    return waiting.result()
            finally:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)


async def _memo(client: Client, workflow_id: str, run_id: str | None) -> Outcome | None:
    """Return the outcome in a cancelled execution's memo; None if it cannot be read, because the row has it too."""
    try:
        memo = await (await client.get_workflow_handle(workflow_id, run_id=run_id).describe()).memo()
        return Outcome.model_validate(memo[OUTCOME_MEMO]) if OUTCOME_MEMO in memo else None
    except (RPCError, ValidationError):
        return None


def _from_failure(error: ApplicationError) -> Outcome | EventRejected:
    try:
        return Outcome.model_validate(error.details[0])
    except (IndexError, ValidationError):
        return EventRejected(error.type or "event.rejected", error.message)
