"""The engine's errors, each of which is for one kind of reader.

The author corrects a `DefinitionError` before a worker starts. The publisher corrects an `EventRejected`. The caller
learns the outcome by `SagaFailed` or `SagaCancelled`. The operator acts on `Unreachable`. A `Refused` is an answer, so
nobody has to act on it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from pydantic import JsonValue

from orchestrator.event import Contract, FailureEvent, read_details
from orchestrator.values.details import details_as_json

C = TypeVar("C", bound=Contract)

CODE_LIMIT = 200
"""The maximum length of an error code in characters, which is the size of its column."""
_CODE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
MESSAGE_LIMIT = 2_000
"""The maximum length of a stored message in characters. A longer one is cut, so that rows and histories stay small."""


def storable(text: str) -> str:
    """Return the text as every database can store it: without NUL or lone surrogates, at most `MESSAGE_LIMIT` long."""
    kept = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return kept if len(kept) <= MESSAGE_LIMIT else f"{kept[: MESSAGE_LIMIT - 1]}…"


class OrchestratorError(Exception):
    """The base class of all errors that the engine raises on purpose."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One definition fault: where it is, what is wrong, and the correct form."""

    file: str
    line: int
    text: str

    @property
    def location(self) -> str:
        """The file and line, as in `activities/account.py:31`, or only the file if the line is unknown."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        return f"{self.location}  {self.text}"


class DefinitionError(OrchestratorError):
    """Events, operations or orchestrators are defined wrongly. The message lists every fault."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        count = len(self.problems)
        found = "1 problem found" if count == 1 else f"{count} problems found"
        super().__init__("\n".join([f"{found}; nothing was started.", *self.lines]))

    @property
    def lines(self) -> list[str]:
        """One indented line for each problem, with their texts below each other."""
        width = max((len(problem.location) for problem in self.problems), default=0)
        return [f"  {problem.location:<{width}}  {problem.text}" for problem in self.problems]

    def __reduce__(self) -> tuple[type["DefinitionError"], tuple[tuple[Problem, ...]]]:
        return (type(self), (self.problems,))


class Refused(OrchestratorError):
    """An operation or `handle` refuses for a business reason. Completed steps are undone, and nothing is retried.

    Args:
        code: a stable code for programs, in the form `domain.reason`, e.g. `account.insufficient_funds`.
        message: a text for users. It may change and must not be parsed. It is stored and shown, so it must not
            contain secrets.
        details: what a program needs to know besides the code, as a contract of at most 16 KiB. It is stored, and
            the failure event contains it.

    Attributes:
        details: the details as JSON, or None. `details_as` reads them as a contract.

    Raises:
        ValueError: the code does not have that form.
        Unrecordable: the details are too large or nested too deep, or would come back as another value.
    """

    def __init__(self, code: str, message: str, details: Contract | None = None) -> None:
        if not _CODE.fullmatch(code) or len(code) > CODE_LIMIT:
            raise ValueError(
                f'"{storable(code)}" is not an error code. Write "domain.reason", as in "account.not_found", with at '
                f"most {CODE_LIMIT} characters"
            )
        self.code = code
        self.message = storable(message)
        self.details: Mapping[str, JsonValue] | None = None
        if details is not None:
            try:
                self.details = details_as_json(details)
            except ValueError as fault:
                raise Unrecordable(f"the details of the refusal {code} cannot be recorded: {fault}") from fault
        super().__init__(f"{code}: {self.message}")

    @classmethod
    def recorded(cls, code: str, message: str, details: Mapping[str, JsonValue] | None) -> Self:
        """Return a refusal that was recorded before, with its details as JSON."""
        refusal = cls(code, message)
        refusal.details = details
        return refusal

    def details_as(self, contract: type[C]) -> C | None:
        """Return the details as a contract; None if there are none.

        Raises:
            pydantic.ValidationError: the details are those of another contract.
        """
        return read_details(self.details, contract)

    def __reduce__(self) -> tuple[type["Refused"], tuple[str, str], dict[str, Any]]:
        return (type(self), (self.code, self.message), {"details": self.details})


class AuthorsMistake(OrchestratorError):
    """The engine has proved that a step's code is wrong: another attempt would fail in the same way.

    Before the pivot such an error is final: the saga is undone immediately, without retries. Past the pivot, and in
    compensations, it is retried like any other error, because there the saga must not give up.
    """


class ResultInvalid(AuthorsMistake):
    """An operation or a verification returned something other than it declares. The message names both types."""


class TransactionMisuse(AuthorsMistake):
    """An operation tried to end its step's transaction. Nothing was committed."""


class UsageError(AuthorsMistake):
    """`handle` uses its saga in a way that could not be resumed, or an operation is called in the wrong place."""


class Unrecordable(UsageError, ValueError):
    """An argument or a result cannot be recorded: JSON changes it, no database can store it, or it is too large."""


class EventRejected(OrchestratorError):
    """The bus refused an event, and nothing was sent.

    Attributes:
        code: `event.unknown_type`, `event.invalid`, `event.too_large`, `event.invalid_id` or `event.id_reused`.
        message: the reason, for users.
        dead_letter: the number of the dead letter that stores the message, if there is one.
    """

    def __init__(self, code: str, message: str, dead_letter: int | None = None) -> None:
        self.code = code
        self.message = message
        self.dead_letter = dead_letter
        super().__init__(f"{code}: {message}")

    def __reduce__(self) -> tuple[type["EventRejected"], tuple[str, str, int | None]]:
        return (type(self), (self.code, self.message, self.dead_letter))


class SagaFailed(OrchestratorError):
    """The saga failed, and its completed steps were undone.

    Attributes:
        code: the stable error code, e.g. `account.insufficient_funds`.
        message: the reason, for users.
        failure: the failure event, with the triggering event and the steps that were undone.
        details: the refusal's details as JSON, or None. `failure.details_as` reads them as a contract.
    """

    def __init__(self, code: str, message: str, failure: FailureEvent) -> None:
        self.code = code
        self.message = message
        self.failure = failure
        self.details = failure.details
        super().__init__(f"{code}: {message}")

    def __reduce__(self) -> tuple[type["SagaFailed"], tuple[str, str, FailureEvent]]:
        return (type(self), (self.code, self.message, self.failure))


class SagaCancelled(SagaFailed):
    """A user cancelled the saga, and its completed steps were undone."""


class NotFinished(OrchestratorError):
    """The saga has not ended within the timeout. It continues; ask again with the same event id."""


class EventTimeout(NotFinished):
    """No matching event arrived within the timeout. Listen again."""


class SagaUnknown(OrchestratorError):
    """Neither a saga nor an execution of that event is known here."""


class Unreachable(OrchestratorError):
    """Temporal or the database cannot be reached or used. The message says which one, why and what to do."""


class PublishIncomplete(OrchestratorError):
    """Some listeners accepted the event and some could not be reached. Publish it again with the same event id.

    Attributes:
        accepted: the names of the orchestrators that accepted the event.
        missing: the names of those that could not be reached.
    """

    def __init__(self, accepted: Sequence[str], missing: Sequence[str]) -> None:
        self.accepted = tuple(accepted)
        self.missing = tuple(missing)
        super().__init__(
            f"The event was accepted by {', '.join(accepted) or 'no orchestrator'}, but not by {', '.join(missing)}. "
            "Publish it again with the same event id; an orchestrator that has it already drops the repeat"
        )

    def __reduce__(self) -> tuple[type["PublishIncomplete"], tuple[tuple[str, ...], tuple[str, ...]]]:
        return (type(self), (self.accepted, self.missing))
