"""Reading how an execution ended, whichever way it did.

An execution drives a saga, and is not the saga: one that was terminated, cancelled by hand, reset, deleted or lost
tells nothing of the outcome. Then the saga's row does.
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
"""What asking again does not change."""
_SOON, _LATER = 0.1, 2.0
"""Seconds between two tries to reach a server that is away."""
_SHARE = 1.0
"""Seconds after which a request that waits gives its slot to those that queue for one."""


class Untold(Enum):
    """What an execution says that says nothing of the outcome."""

    ENDED = "ended"
    """It ended without the saga's outcome: others drive it to its end."""
    GONE = "gone"
    """It is not there, or not any more."""


def is_fatal(fault: RPCError) -> bool:
    """Whether the server answered, and would answer the same again."""
    return fault.status in _FATAL


async def told_by_execution(client: Client, workflow_id: str, run_id: str | None) -> Outcome | EventRejected | Untold:
    """Wait for an execution to end, across any number of lost connections and restarts of the server.

    Returns:
        The outcome; why it took no event, if it ended so; or that it does not tell.

    Raises:
        Unreachable: the server does not let us ask.
    """
    handle = client.get_workflow_handle(workflow_id, run_id=run_id)
    pause = _SOON
    while True:
        try:
            return Outcome.model_validate(await _result_in_turn(handle))
        except ValidationError:
            return Untold.ENDED  # somebody else's workflow, under this id
        except WorkflowFailureError as failure:
            match failure.cause:
                case ApplicationError() as error:
                    return _from_failure(error)
                case CancelledError():
                    memo = await _memo(client, workflow_id, run_id)
                    return Untold.ENDED if memo is None else memo
                case _:
                    return Untold.ENDED
        except RPCError as fault:
            if fault.status is RPCStatusCode.NOT_FOUND:
                return Untold.GONE
            if is_fatal(fault):
                raise Unreachable(f"Temporal does not let {workflow_id} be asked for ({fault.message})") from fault
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LATER)


async def _result_in_turn(handle: WorkflowHandle[Any, Any]) -> Any:
    """Wait for an execution's result. It may take days, and those that queue for a slot may have ended long ago."""
    slot = long_poll_slot()
    while True:
        async with slot:
            waiting = asyncio.ensure_future(handle.result())
            try:
                while not waiting.done():
                    await asyncio.wait({waiting}, timeout=_SHARE)
                    if slot.locked():
                        break
                if waiting.done():
                    return waiting.result()
            finally:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)


async def _memo(client: Client, workflow_id: str, run_id: str | None) -> Outcome | None:
    """The outcome of a cancelled execution; None if it has none, or cannot be asked: the row says the same."""
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
