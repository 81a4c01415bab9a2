"""Decides what follows a failed attempt of a step: another attempt and when, or the end. Every placement asks here.

Past the pivot nothing is given up, so there only the waits that an operation declares hold.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from orchestrator.definition.catalog import Catalog
from orchestrator.errors import AuthorsMistake
from orchestrator.operation import Operation
from orchestrator.protocol.commands import UndoCommand
from orchestrator.protocol.containment import is_raised_by_author
from orchestrator.protocol.exception_groups import leaves
from orchestrator.retry import DEFAULT_RETRY, Retry, strictest
from orchestrator.worker.outages import is_outage


@dataclass(frozen=True, slots=True)
class AfterFailure:
    """What follows a failed attempt."""

    is_final: bool
    """Whether the step is given up."""
    note: str = ""
    """Text to append to the error's message."""
    wait: timedelta | None = None
    """The wait until the next attempt, if the operation declares its own."""


def after_failure(operation: Operation[..., Any], fault: Exception, attempt: int, *, past_pivot: bool) -> AfterFailure:
    """Decide what follows an attempt, counted from 1, that raised an error. The deadline is decided by the caller."""
    retry = operation.retry
    wait = wait_of(retry, attempt)
    if past_pivot:
        return AfterFailure(is_final=False, wait=wait)
    if isinstance(fault, AuthorsMistake):
        return AfterFailure(is_final=True)
    if _is_never_retried(operation, fault):
        return AfterFailure(is_final=True, note=f"; {operation.name} never retries this error")
    if retry.attempts is None:
        return AfterFailure(is_final=False, wait=wait)
    # A database that cannot be used fails every attempt of every saga, and must not end them all.
    if attempt >= retry.attempts and not is_outage(fault):
        return AfterFailure(is_final=True, note=f"; {describe_attempts(attempt)}")
    return AfterFailure(is_final=False, note=f"; attempt {attempt} of {retry.attempts}", wait=wait)


def wait_of(retry: Retry, attempt: int) -> timedelta | None:
    """Return the wait after an attempt; None if nothing was declared, so that the caller's own waits hold."""
    return None if retry == DEFAULT_RETRY else retry.wait_after(attempt)


def undo_retry(catalog: Catalog, command: UndoCommand) -> Retry:
    """Return how the compensation of a step is retried; for an atomic step, the compensations of its calls."""
    operations = [catalog.operations.get(name) for name in command.calls or (command.operation,)]
    return strictest([known.undo.retry for known in operations if known is not None and known.undo is not None])


def describe_attempts(attempts: int) -> str:
    """Say after how many attempts a step was given up."""
    return f"given up after {attempts} attempt{'s' if attempts != 1 else ''}"


def _is_never_retried(operation: Operation[..., Any], fault: Exception) -> bool:
    """Whether the operation's own code raised an error that it declares as final, alone or in a group."""
    declared = operation.never_retry
    return is_raised_by_author(fault) and any(isinstance(leaf, declared) for leaf in leaves(fault))
