"""Reports an activity's failed attempt, in the log and as one line that is small enough for the Temporal server."""

from temporalio import activity

from orchestrator.store.core.databases import Databases
from orchestrator.store.core.error_text import error_message
from orchestrator.worker.fault_log import AttemptFailed, fault_log_of


def attempt_failed(
    fault: Exception,
    databases: Databases,
    *,
    final: bool,
    kind: str | None = None,
    note: str = "",
    waiting: tuple[str, ...] | None = None,
) -> AttemptFailed:
    """Log an error and return the failure to raise, which contains the types and messages of the error and its causes.

    Args:
        fault: the error.
        databases: the databases, one of which may be down.
        final: whether this was the last attempt, so that it is not retried.
        kind: the failure's type; by default the type of the error.
        note: text to append to the message.
        waiting: ids of the sagas that wait because of the error; by default the saga that the execution drives.
    """
    info = activity.info()
    local = " (local activity)" if info.is_local else ""
    what = f"{info.activity_type} of {info.workflow_id}, attempt {info.attempt}{local}"
    sagas = (info.workflow_id or "",) if waiting is None else waiting
    outcome = "failed and is not retried" if final else "failed and is retried"
    fault_log_of(databases).failed(f"{what}, {outcome}", fault, waiting=sagas)
    return failure_of(fault, final=final, kind=kind, note=note)


def failure_of(fault: Exception, *, final: bool, kind: str | None = None, note: str = "") -> AttemptFailed:
    """Return the failure for an error without logging it."""
    failure = AttemptFailed(f"{error_message(fault)}{note}", type=kind or type(fault).__name__, non_retryable=final)
    failure.__cause__ = fault
    return failure
