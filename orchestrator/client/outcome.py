"""Reading how an execution ended, whichever way it did."""

import asyncio
from datetime import timedelta

from pydantic import ValidationError
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError, TerminatedError

from orchestrator.drive.messages import Outcome
from orchestrator.errors import EventRejected, NotFinished
from orchestrator.workflow.names import OUTCOME_MEMO


async def outcome_of(client: Client, workflow_id: str, run_id: str | None, timeout: timedelta | None) -> Outcome:
    """Wait for an execution to end.

    Raises:
        NotFinished: not within the timeout, or the execution was terminated before its saga ended.
        EventRejected: what it was sent was no event it could take.
    """
    handle = client.get_workflow_handle(workflow_id, run_id=run_id)
    try:
        async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
            return Outcome.model_validate(await handle.result())
    except TimeoutError:
        raise NotFinished(f"{workflow_id} has not finished within {timeout}; it goes on") from None
    except WorkflowFailureError as failure:
        match failure.cause:
            case ApplicationError() as error:
                return _from_failure(error)
            case CancelledError():
                memo = await (await handle.describe()).memo()
                if OUTCOME_MEMO in memo:
                    return Outcome.model_validate(memo[OUTCOME_MEMO])
                raise NotFinished(
                    f"{workflow_id} was cancelled before its saga ended. Publish the event again with the same id, and "
                    "the saga goes on where it stood"
                ) from failure
            case TerminatedError():
                raise NotFinished(
                    f"{workflow_id} was terminated before its saga ended. Publish the event again with the same id, "
                    "and the saga goes on where it stood"
                ) from failure
            case _:
                raise


def _from_failure(error: ApplicationError) -> Outcome:
    try:
        return Outcome.model_validate(error.details[0])
    except (IndexError, ValidationError):
        raise EventRejected(error.type or "event.rejected", error.message) from error
