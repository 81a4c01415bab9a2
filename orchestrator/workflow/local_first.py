"""Runs activities local first: as local activities within the workflow task, then as regular ones that the server
retries.

A local activity adds a marker to the history, which the server receives with all others when the workflow task ends.
The server always refuses a task with over 4 MiB, so markers must be small and few. Therefore a large reply is fetched
again by a regular activity, for which the fence returns the recorded reply; and after many local activities the next
one is regular, which ends the task.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError, is_cancelled_exception

from orchestrator.retry import LOCAL_ATTEMPTS, LOCAL_RETRY, Retry

ATTEMPT = timedelta(seconds=30)
"""The timeout of one regular attempt."""
HEARTBEAT = timedelta(seconds=4)
"""The heartbeat timeout, after which an attempt's worker counts as dead. Attempts send heartbeats automatically."""
LOCAL = timedelta(seconds=1)
"""The timeout of all local attempts of an activity together."""
LOCAL_REPLY = 16 * 1024
"""The maximum size in bytes of a reply in a marker."""
REPLY_TOO_LARGE = "ReplyTooLarge"
"""The error type of a local activity that has succeeded, but whose reply is larger than `LOCAL_REPLY`."""
HANDED_OVER = "HandedOver"
"""The error type of a local activity that failed once and has declared waits, which a regular activity keeps."""
CONTINUED = (REPLY_TOO_LARGE, HANDED_OVER)
"""The error types of local activities that a regular activity continues, although they are not retried as such."""
TASK_ACTIVITIES = 100
"""The maximum number of local activities in one workflow task, because cancellations arrive and markers are stored only
between tasks."""


def retry_policy(retry: Retry) -> RetryPolicy:
    """Return Temporal's form of a `Retry`."""
    return RetryPolicy(
        initial_interval=retry.first_wait,
        backoff_coefficient=retry.factor,
        maximum_interval=retry.maximum_wait,
        maximum_attempts=retry.attempts or 0,
    )


_LOCAL_RETRIES = retry_policy(LOCAL_RETRY)


class Activities:
    """Runs the activities of one execution.

    Args:
        leaves_task: called before a regular activity, because the current workflow task does not wait for one.
    """

    def __init__(self, leaves_task: Callable[[], None]) -> None:
        self._leaves_task = leaves_task
        self._markers = 0
        """The number of markers in the current workflow task."""

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
        """Run an activity locally. After an error that can be retried, run it as a regular activity.

        Args:
            name: the activity's type.
            argument: its argument.
            result: the type of its result.
            summary: what the Web UI shows next to its type.
            retries: the retry policy of the regular activity.
            failed: called with the error of the last local attempt, before the regular activity takes over.

        Raises:
            FailureError: the activity failed and is no longer retried, or was cancelled.
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
                if isinstance(failure, ApplicationError) and failure.type == HANDED_OVER:
                    argument = argument.model_copy(update={"failed_locally": failure.message})
                    if retries.maximum_attempts:
                        # The regular activity's first attempt only waits, in place of all local ones.
                        retries = replace(retries, maximum_attempts=retries.maximum_attempts + LOCAL_ATTEMPTS)
        return await self.regular(name, argument, result, summary, retries)

    async def regular(
        self, name: str, argument: Any, result: Any, summary: str, retries: RetryPolicy, *, attempt: timedelta = ATTEMPT
    ) -> Any:
        """Run an activity that the server retries; `attempt` is the timeout of one attempt."""
        markers_before = self._markers
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
            # The workflow task ended before the activity started, and the server has stored the markers up to then.
            self._markers = max(self._markers - markers_before, 0)


async def _local(name: str, argument: Any, result: Any, summary: str) -> Any:
    """Run the local attempts. A cancellation waits for them, because their result would otherwise be unknown."""
    activity = asyncio.ensure_future(
        workflow.execute_local_activity(
            name,
            argument,
            result_type=result,
            schedule_to_close_timeout=LOCAL,
            retry_policy=_LOCAL_RETRIES,
            summary=summary,
        )
    )
    is_cancelled = False
    while not activity.done():
        try:
            await asyncio.shield(activity)
        except asyncio.CancelledError:
            is_cancelled = True
        except FailureError:
            break
    if is_cancelled:
        if not activity.cancelled():
            activity.exception()  # otherwise asyncio logs that the exception was never retrieved
        raise asyncio.CancelledError
    return activity.result()


def _is_final(failure: FailureError) -> bool:
    return isinstance(failure, ApplicationError) and failure.non_retryable and failure.type not in CONTINUED
