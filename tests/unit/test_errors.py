"""The engine's errors: they survive pickling unchanged, and their codes and messages have fixed forms."""

import pickle
from copy import copy
from datetime import datetime, timedelta, timezone
from typing import Any, cast

import pytest
from pydantic import JsonValue

from orchestrator import (
    Contract,
    DefinitionError,
    EventRejected,
    EventTimeout,
    FailureEvent,
    NotFinished,
    OrchestratorError,
    PublishIncomplete,
    Refused,
    SagaCancelled,
    SagaFailed,
    SagaUnknown,
    TransactionMisuse,
    Unreachable,
    UsageError,
)
from orchestrator.errors import MESSAGE_LIMIT, AuthorsMistake, Problem, ResultInvalid, Unrecordable, storable
from orchestrator.protocol.messages.envelope import UnreadableEvent
from orchestrator.values.details import DETAILS_LIMIT, DETAILS_NESTING


class MoveFailed(FailureEvent):
    """The coins were not moved."""


class RefusedByUs(Refused):
    """An author's own class of refusal."""


class Closing(Contract):
    """Details of a refusal."""

    since: int
    note: str = ""
    inner: JsonValue = None
    moment: datetime | None = None


FAILURE = MoveFailed(event_id="e", event_type="MOVE", event={}, error_code="a.b", message="no", undone=())
ERRORS: list[OrchestratorError] = [
    AuthorsMistake("not so"),
    DefinitionError([Problem("b.py", 2, "second"), Problem("a.py", 1, "first")]),
    EventRejected("event.invalid", "no event"),
    NotFinished("not yet"),
    EventTimeout("not yet"),
    PublishIncomplete(["One"], ["Two", "Three"]),
    Refused("account.closed", "it is closed"),
    Refused("account.closed", "it is closed", Closing(since=2026)),
    RefusedByUs("account.closed", "it is closed", Closing(since=2026)),
    ResultInvalid("not so"),
    SagaCancelled("saga.cancelled", "by a person", FAILURE),
    SagaFailed("account.closed", "it is closed", FAILURE),
    SagaUnknown("none"),
    TransactionMisuse("no commit"),
    Unreachable("localhost"),
    UnreadableEvent("event.not_json", "no JSON"),
    UsageError("not so"),
    Unrecordable("not so"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_is_unchanged_after_pickling_and_copying(error: OrchestratorError) -> None:
    for again in (cast(OrchestratorError, pickle.loads(pickle.dumps(error))), copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


def test_every_error_of_the_engine_is_in_the_pickling_test() -> None:
    def kinds(root: type[OrchestratorError]) -> set[type[OrchestratorError]]:
        found = {
            subclass
            for subclass in root.__subclasses__()
            if subclass.__module__ in ("orchestrator.errors", "orchestrator.protocol.messages.envelope")
        }
        return found.union(*(kinds(subclass) for subclass in found))

    assert kinds(OrchestratorError) <= {type(error) for error in ERRORS}


@pytest.mark.parametrize("code", ["account.closed", "a.b", "a1.b_2.c", f"a.{'b' * 198}"])
def test_a_code_has_a_domain_and_a_reason(code: str) -> None:
    refusal = Refused(code, "no")

    assert (refusal.code, refusal.message, str(refusal)) == (code, "no", f"{code}: no")


@pytest.mark.parametrize(
    "code", ["", "closed", "ACCOUNT.CLOSED", "account.", ".closed", "account closed", "1a.b", "a.b\n", f"a.{'b' * 199}"]
)
def test_an_invalid_code_is_refused_with_the_correct_form(code: str) -> None:
    with pytest.raises(ValueError, match=r'Write "domain\.reason", as in "account\.not_found"'):
        Refused(code, "no")


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("fine ä🙂", "fine ä🙂"),
        ("a\x00b", "a\ufffdb"),
        ("a\ud800b", "a?b"),
        ("a" * MESSAGE_LIMIT, "a" * MESSAGE_LIMIT),
        ("a" * (MESSAGE_LIMIT + 1), "a" * (MESSAGE_LIMIT - 1) + "…"),
    ],
)
def test_a_message_is_changed_to_what_every_database_can_store(text: str, stored: str) -> None:
    assert storable(text) == stored
    assert Refused("a.b", text).message == stored
    assert UnreadableEvent("event.invalid", text).message == stored


WRONG: dict[str, Any] = {"since": "x" * 9}


def nested(levels: int) -> JsonValue:
    """A list in a list, and so on."""
    value: JsonValue = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("details", "said"),
    [
        (Closing(since=1, note="ä" * DETAILS_LIMIT), "takes 32,"),
        (Closing(since=1, inner=nested(DETAILS_NESTING)), "is nested deeper than 50 levels"),
        (Closing.model_construct(**WRONG), "could not be read back, because of since"),
        (Closing(since=1, moment=datetime(1, 1, 1, tzinfo=timezone(timedelta(seconds=1)))), "would come back as"),
    ],
    ids=["large", "deep", "wrong", "changed"],
)
def test_details_that_cannot_be_recorded_are_refused_where_they_arise(details: Closing, said: str) -> None:
    with pytest.raises(Unrecordable, match=said) as raised:
        Refused("account.closed", "it is closed", details)

    assert "xxxx" not in str(raised.value)


def test_details_within_the_bounds_are_read_as_their_contract() -> None:
    details = Closing(since=1, note="a" * (DETAILS_LIMIT - 200), inner=nested(DETAILS_NESTING - 1))

    assert Refused("account.closed", "it is closed", details).details_as(Closing) == details
    assert Refused("account.closed", "it is closed").details_as(Closing) is None


def test_problems_are_sorted_by_place_and_aligned() -> None:
    error = DefinitionError(
        [Problem("shop/b.py", 12, "second"), Problem("a.py", 3, "first"), Problem("shop", 0, "third")]
    )

    assert str(error).splitlines() == [
        "3 problems found; nothing was started.",
        "  a.py:3        first",
        "  shop          third",
        "  shop/b.py:12  second",
    ]
    assert str(DefinitionError([Problem("a.py", 3, "first")])).startswith("1 problem found; nothing was started.")


def test_an_incomplete_publish_names_the_orchestrators_that_have_the_event() -> None:
    assert str(PublishIncomplete([], ["Two"])).startswith(
        "The event was accepted by no orchestrator, but not by Two. Publish"
    )
