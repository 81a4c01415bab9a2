"""How an activity reports a failed attempt to Temporal: in one line, without traceback, small enough for the server."""

from temporalio.exceptions import ApplicationError

from orchestrator.store.error_text import error_message


class AttemptFailed(ApplicationError):
    """An attempt failed with an author's error or the database's. Its cause keeps the error for the log alone."""


def attempt_failed(fault: Exception, *, final: bool, kind: str | None = None) -> AttemptFailed:
    """The failure that stands for an error: its type and message, and those of its causes."""
    failed = AttemptFailed(error_message(fault), type=kind or type(fault).__name__, non_retryable=final)
    failed.__cause__ = fault
    return failed
