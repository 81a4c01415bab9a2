"""Describes a failure as an exit code, an error code for programs, and one sentence for the user."""

from dataclasses import dataclass
from enum import IntEnum
from errno import ENOSPC

from temporalio.service import RPCError
from typer import TyperException

from orchestrator.errors import (
    DefinitionError,
    EventRejected,
    NotFinished,
    PublishIncomplete,
    SagaFailed,
    SagaUnknown,
    Unreachable,
)
from orchestrator.settings import InvalidSettings
from orchestrator.store.belonging import RecoveryRefused
from orchestrator.store.connections.errors import DatabaseUnusable
from orchestrator.store.queries.sagas import NoTables
from orchestrator.store.saga.intervention import SkipRefused


class Exit(IntEnum):
    """The exit codes of the command line."""

    COMPLETED = 0
    FAILED = 1
    """The saga failed or was cancelled, so it was undone."""
    MISUSE = 2
    UNREACHABLE = 3
    NOT_FINISHED = 4
    BUG = 70
    """A bug in the engine. `EX_SOFTWARE` of sysexits.h, because 1 would look like a failed saga."""
    OUTPUT_LOST = 74
    """The command did its work, but its answer could not be written to stdout. `EX_IOERR` of sysexits.h."""
    STOPPED = 130
    """The user pressed Ctrl-C or declined to confirm."""


_FROM_BEST_TO_WORST = (Exit.COMPLETED, Exit.NOT_FINISHED, Exit.UNREACHABLE, Exit.FAILED, Exit.MISUSE)


def worst_of(exits: list[Exit]) -> Exit:
    """Return one exit code for several sagas. A failed saga takes precedence over one that may still complete."""
    return max(exits, key=_FROM_BEST_TO_WORST.index, default=Exit.COMPLETED)


class Stopped(Exception):
    """The user pressed Ctrl-C or declined to confirm. The message says what continues nevertheless."""


class NotPossible(Exception):
    """The saga's current state does not allow the request; nothing was changed.

    Attributes:
        code: a stable error code, for programs.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class ReportedFailure:
    """An expected failure, in the form in which it is reported."""

    exit: Exit
    code: str
    message: str

    def as_json(self) -> dict[str, str]:
        """Return the error as a JSON object, for programs."""
        return {"code": self.code, "message": self.message}


def describe_failure(fault: BaseException) -> ReportedFailure | None:
    """Return how an expected failure is reported, or None for a bug."""
    match fault:
        case EventRejected(code=code, message=message):
            return ReportedFailure(Exit.MISUSE, code, message)
        case SagaFailed(code=code, message=message):
            return ReportedFailure(Exit.FAILED, code, message)
        case SagaUnknown():
            return ReportedFailure(Exit.MISUSE, "saga.unknown", str(fault))
        case SkipRefused():
            return ReportedFailure(Exit.MISUSE, "saga.not_skippable", str(fault))
        case NotPossible(code=code):
            return ReportedFailure(Exit.MISUSE, code, str(fault))
        case RecoveryRefused():
            return ReportedFailure(Exit.MISUSE, "recovery.refused", str(fault))
        case DefinitionError():
            return ReportedFailure(Exit.MISUSE, "definition.faulty", str(fault))
        case NoTables():
            return ReportedFailure(Exit.UNREACHABLE, "database.no_tables", str(fault))
        case PublishIncomplete():
            return ReportedFailure(Exit.UNREACHABLE, "publish.incomplete", str(fault))
        case DatabaseUnusable(condition=condition):
            return ReportedFailure(Exit.UNREACHABLE, condition.value, str(fault))
        case Unreachable():
            return ReportedFailure(Exit.UNREACHABLE, "unreachable", str(fault))
        case NotFinished():
            return ReportedFailure(Exit.NOT_FINISHED, "saga.not_finished", str(fault))
        case Stopped():
            return ReportedFailure(Exit.STOPPED, "stopped", str(fault))
        case RPCError():
            return ReportedFailure(Exit.UNREACHABLE, "unreachable", f"Temporal refused a request: {fault.message}")
        case OSError() if fault.errno == ENOSPC:
            return ReportedFailure(
                Exit.OUTPUT_LOST, "output.lost", f"A file could not be written because the disk is full: {fault}"
            )
        case TyperException():
            return ReportedFailure(Exit.MISUSE, "usage", fault.format_message())
        case InvalidSettings():
            return ReportedFailure(Exit.MISUSE, "settings.invalid", str(fault))
        case _:
            return None
