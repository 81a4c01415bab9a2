"""What can go wrong, sorted by who must act.

`DefinitionError`: the author, before a worker starts. `Refused`: nobody, it is an answer. `EventRejected`:
whoever published. `SagaFailed`, `SagaCancelled`: the caller, who learns the outcome. `Unreachable`: the operator.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.event import FailureEvent

CODE_LIMIT = 200
"""Characters of an error code, as its column holds them."""
_CODE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
MESSAGE_LIMIT = 2_000
"""Characters of a message that are kept; a longer one is cut, so that a row and a history stay small."""


def storable(text: str) -> str:
    """The text as every database and every wire can hold it: no NUL, no lone surrogate, at most `MESSAGE_LIMIT`."""
    kept = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return kept if len(kept) <= MESSAGE_LIMIT else f"{kept[: MESSAGE_LIMIT - 1]}…"


class OrchestratorError(Exception):
    """Root of everything the engine raises on purpose."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One fault of definition: where it stands, what is wrong, and the right form."""

    file: str
    line: int
    text: str

    @property
    def place(self) -> str:
        """`activities/account.py:31`, or the file alone where no line is known."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        return f"{self.place}  {self.text}"


class DefinitionError(OrchestratorError):
    """Events, operations or orchestrators are not defined as they must be. Lists every fault at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        count = len(self.problems)
        width = max((len(problem.place) for problem in self.problems), default=0)
        lines = [f"  {problem.place:<{width}}  {problem.text}" for problem in self.problems]
        found = "1 problem found" if count == 1 else f"{count} problems found"
        super().__init__("\n".join([f"{found}; nothing was started.", *lines]))

    def __reduce__(self) -> tuple[type["DefinitionError"], tuple[tuple[Problem, ...]]]:
        return (type(self), (self.problems,))


class Refused(OrchestratorError):
    """An operation, or `handle`, says no by a business rule. What came before it is undone; nothing is retried.

    Args:
        code: stable and for programs, in the form `domain.reason`, e.g. `account.insufficient_funds`.
        message: for a person; may change, never parsed. Keep secrets out of it: it is stored and shown.

    Raises:
        ValueError: the code has another form.
    """

    def __init__(self, code: str, message: str) -> None:
        if not _CODE.fullmatch(code) or len(code) > CODE_LIMIT:
            raise ValueError(
                f'"{storable(code)}" is no error code; the form is "domain.reason", as in "account.not_found", in at '
                f"most {CODE_LIMIT} characters"
            )
        self.code = code
        self.message = storable(message)
        super().__init__(f"{code}: {self.message}")

    def __reduce__(self) -> tuple[type["Refused"], tuple[str, str]]:
        return (type(self), (self.code, self.message))


class AuthorsMistake(OrchestratorError):
    """The engine has proved that a step's code is wrong: another attempt would fail in the same way.

    Before the pivot such a step is final at once: the saga is undone, and the author learns of it immediately. Past the
    pivot, and in compensations, it is retried like any other error, because nothing may be given up there.
    """


class ResultInvalid(AuthorsMistake):
    """An operation returned something other than it declares, or a verification did. The message names both."""


class TransactionMisuse(AuthorsMistake):
    """An operation tried to end the step's transaction itself. Nothing was committed."""


class UsageError(AuthorsMistake):
    """`handle` used its saga in a way that could not be resumed, or an operation was called in the wrong place."""


class Unrecordable(UsageError, ValueError):
    """An argument or a result cannot be recorded: JSON would change it, no database holds it, or it is too large."""


class EventRejected(OrchestratorError):
    """The bus refused an event; nothing was sent.

    Attributes:
        code: `event.unknown_type`, `event.invalid`, `event.too_large`, `event.invalid_id` or `event.id_reused`.
        message: for a person.
        dead_letter: number of the dead letter as which the message is kept, if it is.
    """

    def __init__(self, code: str, message: str, dead_letter: int | None = None) -> None:
        self.code = code
        self.message = message
        self.dead_letter = dead_letter
        super().__init__(f"{code}: {message}")

    def __reduce__(self) -> tuple[type["EventRejected"], tuple[str, str, int | None]]:
        return (type(self), (self.code, self.message, self.dead_letter))


class SagaFailed(OrchestratorError):
    """The saga ended as failed and what it had done is undone.

    Attributes:
        code: the stable error code, e.g. `account.insufficient_funds`.
        message: for a person.
        failure: the failure event, with the triggering event and the steps undone.
    """

    def __init__(self, code: str, message: str, failure: "FailureEvent") -> None:
        self.code = code
        self.message = message
        self.failure = failure
        super().__init__(f"{code}: {message}")

    def __reduce__(self) -> tuple[type["SagaFailed"], tuple[str, str, "FailureEvent"]]:
        return (type(self), (self.code, self.message, self.failure))


class SagaCancelled(SagaFailed):
    """The saga was cancelled by a person and what it had done is undone."""


class NotFinished(OrchestratorError):
    """The saga has not ended within the time given. It goes on; ask again with the same event id."""


class EventTimeout(NotFinished):
    """No event that matches went through within the time given. Listen again."""


class SagaUnknown(OrchestratorError):
    """No saga and no execution of that event is known here."""


class Unreachable(OrchestratorError):
    """Temporal or the database cannot be reached or used. The message says which one, why and what to do."""


class PublishIncomplete(OrchestratorError):
    """Some listeners accepted the event and some could not be reached. Publish it again with the same event id.

    Attributes:
        accepted: names of the orchestrators that have it.
        missing: names of those that do not.
    """

    def __init__(self, accepted: Sequence[str], missing: Sequence[str]) -> None:
        self.accepted = tuple(accepted)
        self.missing = tuple(missing)
        super().__init__(
            f"accepted by {', '.join(accepted) or 'nobody'}, not by {', '.join(missing)}; "
            "publish it again with the same event id: who has it already drops the repeat"
        )

    def __reduce__(self) -> tuple[type["PublishIncomplete"], tuple[tuple[str, ...], tuple[str, ...]]]:
        return (type(self), (self.accepted, self.missing))
