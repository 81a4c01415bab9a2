"""Activities, local first: in the saga's own worker within one workflow task, then as the server's to retry.

A local activity leaves one marker, which goes to the server when its workflow task ends, together with all others of
that task; over 4 MiB the server refuses the task for ever. So a marker is small, and a task has not too many of them: a
large reply is asked for again by a regular activity, which the fence answers; and from time to time one activity is
regular from the start, which ends the task.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError, is_cancelled_exception

ATTEMPT = timedelta(seconds=30)
"""One regular attempt, from its start to its end."""
HEARTBEAT = timedelta(seconds=4)
"""Silence after which an attempt's worker is taken for dead; attempts beat by themselves."""
LOCAL = timedelta(seconds=1)
"""All local attempts of one activity together."""
LOCAL_ATTEMPTS = 3
LOCAL_REPLY = 16 * 1024
"""Bytes of a reply that a marker carries."""
REPLY_TOO_LARGE = "ReplyTooLarge"
"""Type of the error that a local activity raises when it is done and its reply is larger than that."""
TASK_ACTIVITIES = 100
"""Local activities in one workflow task: between two tasks a cancel is heard, and what was done is written down."""

_LOCAL_RETRIES = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=LOCAL_ATTEMPTS)


class Activities:
    """Runs the activities of one execution.

    Args:
        leaves_task: called before anything that the workflow task does not wait for.
    """

    def __init__(self, leaves_task: Callable[[], None]) -> None:
        self._leaves_task = leaves_task
        self._markers = 0
        """Since a workflow task ended."""

    async def local_first(
        self,
        name: str,
        argument: Any,
        result: Any,
        summary: str,
        retries: RetryPolicy,
        *,
        failed: Callable[[FailureError], None] = lambda _: None,
    ) -> Any:
        """Run an activity; after a failure that may pass it goes on as a regular one.

        Args:
            name: the activity's type.
            argument: what it is given.
            result: the type of its result.
            summary: what the Web UI shows beside its type.
            retries: of the regular one.
            failed: called with the error of the last local attempt, before the regular one takes over.

        Raises:
            FailureError: it failed for good, or was cancelled.
            asyncio.CancelledError: the caller was cancelled.
        """
        if self._markers < TASK_ACTIVITIES:
            self._markers += 1
            try:
                return await _local(name, argument, result, summary)
            except FailureError as failure:
                if is_cancelled_exception(failure) or _is_final(failure):
                    raise
                failed(failure)
        return await self.regular(name, argument, result, summary, retries)

    async def regular(
        self, name: str, argument: Any, result: Any, summary: str, retries: RetryPolicy, *, attempt: timedelta = ATTEMPT
    ) -> Any:
        """Run an activity that the server retries; `attempt` is how long one attempt may take."""
        carried = self._markers
        self._leaves_task()
        try:
            return await workflow.execute_activity(
                name,
                argument,
                result_type=result,
                start_to_close_timeout=attempt,
                heartbeat_timeout=HEARTBEAT,
                retry_policy=retries,
                summary=summary,
            )
        finally:
            # It could not begin before the task that asked for it had ended, with all markers that it had by then.
            self._markers = max(self._markers - carried, 0)


async def _local(name: str, argument: Any, result: Any, summary: str) -> Any:
    """Local attempts. A cancel waits for them: cut off, what they did would not be known here."""
    trying = asyncio.ensure_future(
        workflow.execute_local_activity(
            name,
            argument,
            result_type=result,
            schedule_to_close_timeout=LOCAL,
            retry_policy=_LOCAL_RETRIES,
            summary=summary,
        )
    )
    cancelled = False
    while not trying.done():
        try:
            await asyncio.shield(trying)
        except asyncio.CancelledError:
            cancelled = True
        except FailureError:
            break
    if cancelled:
        if not trying.cancelled():
            trying.exception()  # heard, so that it is not told as never retrieved
        raise asyncio.CancelledError
    return trying.result()


def _is_final(failure: FailureError) -> bool:
    return isinstance(failure, ApplicationError) and failure.non_retryable and failure.type != REPLY_TOO_LARGE
