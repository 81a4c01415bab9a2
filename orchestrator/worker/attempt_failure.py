"""How an activity reports a failed attempt: to Temporal in one line, small enough for the server, and to the log."""

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
    """The failure that stands for an error: its type and message, and those of its causes. It is logged here.

    Args:
        fault: the error.
        databases: one of which may be down.
        final: whether it is retried no more.
        kind: its type, if not the error's own.
        note: follows the message.
        waiting: the sagas that wait because of it; by default the one that the execution drives.
    """
    info = activity.info()
    what = f"{info.activity_type} of {info.workflow_id}, attempt {info.attempt}{' in place' if info.is_local else ''}"
    sagas = (info.workflow_id or "",) if waiting is None else waiting
    fault_log_of(databases).failed(f"{what}, fails{' for good' if final else ''}", fault, waiting=sagas)
    return failure_of(fault, final=final, kind=kind, note=note)


def failure_of(fault: Exception, *, final: bool, kind: str | None = None, note: str = "") -> AttemptFailed:
    """The failure alone; nothing is logged."""
    failed = AttemptFailed(f"{error_message(fault)}{note}", type=kind or type(fault).__name__, non_retryable=final)
    failed.__cause__ = fault
    return failed
