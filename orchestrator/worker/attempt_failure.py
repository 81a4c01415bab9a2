"""Reports an activity's failed attempt, in the log and as one line that is small enough for the Temporal server."""

from datetime import timedelta

from temporalio import activity

from orchestrator.store.core.databases import Databases
from orchestrator.store.core.error_text import error_message, error_text
from orchestrator.worker.fault_log import AttemptFailed, fault_log_of
from orchestrator.workflow.local_first import HANDED_OVER


def attempt_failed(
    fault: Exception,
    databases: Databases,
    *,
    final: bool,
    kind: str | None = None,
    note: str = "",
    wait: timedelta | None = None,
    is_handed_over: bool = False,
    waiting: tuple[str, ...] | None = None,
) -> AttemptFailed:
    """Log an error and return the failure to raise, which contains the types and messages of the error and its causes.

    Args:
        fault: the error.
        databases: the databases, one of which may be down.
        final: whether this was the last attempt, so that it is not retried.
        kind: the failure's type; by default the type of the error.
        note: text to append to the message.
        wait: the time until the next attempt; by default the retry policy decides.
        is_handed_over: whether a regular activity continues this local one.
        waiting: ids of the sagas that wait because of the error; by default the saga that the execution drives.
    """
    info = activity.info()
    local = " (local activity)" if info.is_local else ""
    what = f"{info.activity_type} of {info.workflow_id}, attempt {info.attempt}{local}"
    sagas = (info.workflow_id or "",) if waiting is None else waiting
    outcome = "failed and is not retried" if final else "failed and is retried"
    fault_log_of(databases).failed(f"{what}, {outcome}", fault, waiting=sagas)
    if is_handed_over:
        failure = AttemptFailed(f"{error_text(fault)}{note}", type=HANDED_OVER, non_retryable=True)
        failure.__cause__ = fault
        return failure
    return failure_of(fault, final=final, kind=kind, note=note, wait=wait)


def failure_of(
    fault: Exception, *, final: bool, kind: str | None = None, note: str = "", wait: timedelta | None = None
) -> AttemptFailed:
    """Return the failure for an error without logging it."""
    failure = AttemptFailed(
        f"{error_message(fault)}{note}",
        type=kind or type(fault).__name__,
        non_retryable=final,
        next_retry_delay=None if final else wait,
    )
    failure.__cause__ = fault
    return failure
