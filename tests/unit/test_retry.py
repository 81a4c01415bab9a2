"""Waits, attempts, and what is declared wrongly about them."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import InterfaceError

from orchestrator import ExternalCall, Operation, Refused, Retry, Transaction, external_operation, operation
from orchestrator.definition.operations import problems_of_operation
from orchestrator.errors import ResultInvalid, Unreachable
from orchestrator.protocol.containment import contained
from orchestrator.retry import DEFAULT_RETRY, strictest
from orchestrator.worker.step_retries import AfterFailure, after_failure

SECOND = timedelta(seconds=1)
THREE = Retry(first_wait=SECOND, attempts=3)


async def body(tx: Transaction) -> None:
    """Nothing."""


async def outside(call: ExternalCall) -> None:
    """Nothing."""


def raised(fault: Exception) -> Exception:
    """An error as an operation's code raises it."""
    with pytest.raises(type(fault)) as told, contained("cast.take"):
        raise fault
    return told.value


def test_waits_grow_by_the_factor_up_to_the_longest() -> None:
    retry = Retry(first_wait=SECOND, factor=3.0, maximum_wait=timedelta(seconds=10))

    assert [retry.wait_after(attempt).total_seconds() for attempt in (1, 2, 3, 4, 100_000)] == [1, 3, 9, 10, 10]
    assert [DEFAULT_RETRY.wait_after(attempt).total_seconds() for attempt in (1, 2, 9, 10)] == [0.1, 0.2, 25.6, 30]


def test_the_strictest_of_several_has_the_fewest_attempts_and_the_longest_waits() -> None:
    other = Retry(first_wait=timedelta(0), factor=4.0, maximum_wait=timedelta(seconds=40), attempts=9)

    assert strictest([THREE, other]) == Retry(
        first_wait=SECOND, factor=4.0, maximum_wait=timedelta(seconds=40), attempts=3
    )
    assert strictest([]) == strictest([DEFAULT_RETRY]) == DEFAULT_RETRY


DECLARED = operation(irreversible="it is", retry=THREE, never_retry=(KeyError, OSError))(body)
PLAIN = operation(irreversible="it is")(body)
NEVER = AfterFailure(is_final=True, note="; test_retry.body never retries this error")
AGAIN = AfterFailure(is_final=False, note="; attempt 1 of 3", wait=SECOND)


@pytest.mark.parametrize(
    ("declared", "fault", "attempt", "expected"),
    [
        (DECLARED, raised(ValueError("x")), 1, AGAIN),
        (DECLARED, raised(ValueError("x")), 3, AfterFailure(is_final=True, note="; given up after 3 attempts")),
        (DECLARED, raised(KeyError("x")), 1, NEVER),
        (DECLARED, KeyError("x"), 1, AGAIN),
        (DECLARED, ConnectionRefusedError("x"), 1, AGAIN),
        (DECLARED, ResultInvalid("x"), 1, AfterFailure(is_final=True)),
        (PLAIN, raised(KeyError("x")), 9, AfterFailure(is_final=False)),
    ],
    ids=["again", "attempts", "never", "the engine's own", "the database's", "a mistake", "nothing declared"],
)  # fmt: skip
def test_what_follows_a_failed_attempt(
    declared: Operation[..., Any], fault: Exception, attempt: int, expected: AfterFailure
) -> None:
    assert after_failure(declared, fault, attempt, past_pivot=False) == expected


@pytest.mark.parametrize(
    "fault", [Unreachable("x"), ConnectionRefusedError("x"), InterfaceError("x", None, Exception())]
)
def test_a_database_that_cannot_be_used_exhausts_no_attempts(fault: Exception) -> None:
    assert not after_failure(DECLARED, fault, 9, past_pivot=False).is_final


def test_past_the_pivot_nothing_is_final_and_the_waits_hold() -> None:
    for fault in (raised(KeyError("x")), raised(ValueError("x")), ResultInvalid("x")):
        assert after_failure(DECLARED, fault, 3, past_pivot=True) == AfterFailure(is_final=False, wait=4 * SECOND)


NUMBER: Any = 3
ONE_CLASS: Any = KeyError
NO_ERRORS: Any = (int,)


def undoable(**options: Any) -> Operation[..., Any]:
    """An operation whose compensation has these options."""
    made = operation(body)
    made.compensation(**options)(body)
    return made


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda: operation(irreversible="x", retry=Retry(attempts=0))(body), "attempts are 0: write a number from 1"),
        (lambda: operation(irreversible="x", retry=Retry(factor=0.5))(body), "factor is 0.5: write a number from 1"),
        (lambda: operation(irreversible="x", retry=Retry(first_wait=60 * SECOND))(body), "is shorter than its first"),
        (lambda: operation(irreversible="x", retry=Retry(first_wait=timedelta(0)))(body), "first_wait is datetime"),
        (lambda: operation(irreversible="x", retry=NUMBER)(body), "has retry=3: write `retry=Retry("),
        (lambda: operation(irreversible="x", never_retry=ONE_CLASS)(body), "write a tuple of exceptions"),
        (lambda: operation(irreversible="x", never_retry=NO_ERRORS)(body), "which is no subclass of Exception"),
        (lambda: operation(irreversible="x", never_retry=(Refused,))(body), "never retried in any case: take it out"),
        (lambda: operation(retriable=True, retry=THREE)(body), "limits its attempts to 3, but it is retriable"),
        (lambda: operation(retriable=True, never_retry=(KeyError,))(body), "has never_retry, but it is retriable"),
        (lambda: external_operation(irreversible="x", retry=Retry(attempts=0))(outside), "attempts are 0"),
        (lambda: undoable(retry=THREE), "body limits its attempts to 3, but a compensation is retried until"),
    ],
)  # fmt: skip
def test_what_is_declared_wrongly_is_told_with_its_place(declare: Callable[[], Any], said: str) -> None:
    texts = [str(problem) for problem in problems_of_operation(declare())]

    assert any(said in text and "test_retry.py:" in text for text in texts), texts


def test_what_is_declared_rightly_is_no_fault() -> None:
    assert list(problems_of_operation(DECLARED)) == []
    assert list(problems_of_operation(undoable(retry=Retry(first_wait=SECOND)))) == []
