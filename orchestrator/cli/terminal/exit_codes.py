"""What went wrong, as an exit code, a code for programs and one sentence for a person."""

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
from orchestrator.store.connections.errors import DatabaseUnusable
from orchestrator.store.queries.sagas import NoTables
from orchestrator.store.recovery import RecoveryRefused
from orchestrator.store.saga.intervention import SkipRefused


class Exit(IntEnum):
    """How the process ends."""

    COMPLETED = 0
    FAILED = 1
    """Failed or cancelled: the saga was undone."""
    MISUSE = 2
    UNREACHABLE = 3
    NOT_FINISHED = 4
    BUG = 70
    """Ours; `EX_SOFTWARE` of sysexits.h, as 1 would read as a failed saga."""
    OUTPUT_LOST = 74
    """The command did its work and its answer could not be written to stdout. `EX_IOERR` of sysexits.h."""
    STOPPED = 130
    """By Ctrl-C, or by a no to what was asked."""


_FROM_BAD_TO_WORSE = (Exit.COMPLETED, Exit.NOT_FINISHED, Exit.UNREACHABLE, Exit.FAILED, Exit.MISUSE)


def worst_of(exits: list[Exit]) -> Exit:
    """What several sagas come to: one that failed counts more than one that may still complete."""
    return max(exits, key=_FROM_BAD_TO_WORSE.index, default=Exit.COMPLETED)


class Stopped(Exception):
    """Ctrl-C, or a no; the message says what goes on all the same."""


class NotPossible(Exception):
    """What was asked for is not possible as the saga stands; nothing was changed.

    Attributes:
        code: stable, for programs.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Told:
    """A fault as it is told."""

    exit: Exit
    code: str
    message: str

    def as_json(self) -> dict[str, str]:
        """For programs."""
        return {"code": self.code, "message": self.message}


def told(fault: BaseException) -> Told | None:
    """An expected fault as it is told; None for one that is a bug."""
    match fault:
        case EventRejected(code=code, message=message):
            return Told(Exit.MISUSE, code, message)
        case SagaFailed(code=code, message=message):
            return Told(Exit.FAILED, code, message)
        case SagaUnknown():
            return Told(Exit.MISUSE, "saga.unknown", str(fault))
        case SkipRefused():
            return Told(Exit.MISUSE, "saga.not_skippable", str(fault))
        case NotPossible(code=code):
            return Told(Exit.MISUSE, code, str(fault))
        case RecoveryRefused():
            return Told(Exit.MISUSE, "recovery.refused", str(fault))
        case DefinitionError():
            return Told(Exit.MISUSE, "definition.faulty", str(fault))
        case NoTables():
            return Told(Exit.UNREACHABLE, "database.no_tables", str(fault))
        case PublishIncomplete():
            return Told(Exit.UNREACHABLE, "publish.incomplete", str(fault))
        case DatabaseUnusable(condition=condition):
            return Told(Exit.UNREACHABLE, condition.value, str(fault))
        case Unreachable():
            return Told(Exit.UNREACHABLE, "unreachable", str(fault))
        case NotFinished():
            return Told(Exit.NOT_FINISHED, "saga.not_finished", str(fault))
        case Stopped():
            return Told(Exit.STOPPED, "stopped", str(fault))
        case RPCError():
            return Told(Exit.UNREACHABLE, "unreachable", f"Temporal refused a request: {fault.message}")
        case OSError() if fault.errno == ENOSPC:
            return Told(Exit.OUTPUT_LOST, "output.lost", f"Something could not be written: {fault}")
        case TyperException():
            return Told(Exit.MISUSE, "usage", fault.format_message())
        case InvalidSettings():
            return Told(Exit.MISUSE, "settings.invalid", str(fault))
        case _:
            return None
