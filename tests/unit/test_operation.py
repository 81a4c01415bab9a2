"""Calling an operation describes a step, and recorded arguments and results are read back with their types."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue, ValidationError

from orchestrator import Contract, Operation, Transaction, UsageError, operation, query
from orchestrator.operation import DEFAULT_DEADLINE, Reversal

NO_TRANSACTION = cast(Transaction, None)
"""A stand-in for the transaction, which these operations do not use."""


class Colour(StrEnum):
    RED = "red"


class Pair(NamedTuple):
    left: int
    right: str


@dataclass(frozen=True)
class Point:
    x: int
    y: int


class Money(Contract):
    minor: int


undone: list[tuple[Any, ...]] = []


@operation
async def move(tx: Transaction, account: str, amount: Money, note: str | None = None, *, copies: int = 1) -> Pair:
    return Pair(amount.minor, account)


@move.compensation
async def move_back(tx: Transaction, result: Pair, copies: int, account: str) -> None:
    undone.append((result, copies, account))


@operation(irreversible="gone", deadline=timedelta(seconds=9))
async def burn(tx: Transaction, reason: str) -> None:
    """Burn something, which cannot be undone."""


@query
async def ask(tx: Transaction, rate: float = 1.0) -> float:
    return rate


FIVE = Money(minor=5)


def test_calling_an_operation_only_describes_the_call() -> None:
    call = move("a", FIVE)

    assert call.operation is move
    assert call.arguments == {"account": "a", "amount": {"minor": 5}, "note": None, "copies": 1}
    assert repr(call) == "test_operation.move(account='a', amount={'minor': 5}, note=None, copies=1)"


def test_calls_are_equal_when_operation_and_arguments_are() -> None:
    assert move("a", FIVE) == move(account="a", amount=FIVE, note=None, copies=1)
    assert hash(move("a", FIVE)) == hash(move(amount=FIVE, account="a"))
    assert move("a", FIVE) != move("b", FIVE)
    assert burn("a") != ask()
    assert burn("a") != "burn('a')"


async def test_awaiting_a_call_is_refused_with_the_correct_form() -> None:
    with pytest.raises(UsageError, match=r"only describes a call.* `await saga\.execute\(move\(\.\.\.\)\)`"):
        await move("a", FIVE)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: cast(Any, move)("a", 5), "amount"),
        (lambda: cast(Any, move)(1, FIVE), "account"),
        (lambda: cast(Any, move)("a", FIVE, copies="2"), "copies"),
        (lambda: cast(Any, move)("a", FIVE, copies=True), "copies"),
        (lambda: ask(float("nan")), "rate"),
        (lambda: ask(float("-inf")), "rate"),
        (lambda: burn("a\x00"), "burn: reason: the text contains a NUL character, which no database column can store"),
        (
            lambda: burn("a\ud800"),
            "burn: reason: the text contains a lone surrogate, which no database column can store",
        ),
    ],
)
def test_an_invalid_argument_is_refused_where_the_call_is_written(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: cast(Any, move)("a"), r"test_operation\.move: missing a required argument: 'amount'"),
        (lambda: cast(Any, move)("a", FIVE, None, 2), r"test_operation\.move: too many positional arguments"),
        (lambda: cast(Any, move)("a", FIVE, sum=1), r"test_operation\.move: got an unexpected keyword argument 'sum'"),
        (lambda: cast(Any, burn)(), r"test_operation\.burn: missing a required argument: 'reason'"),
    ],
)
def test_a_call_that_does_not_match_the_signature_names_its_operation(
    wrong: Callable[[], object], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        wrong()


def test_a_declaration_defines_reversal_compensation_and_deadline() -> None:
    assert (move.name, move.reversal, move.deadline) == (
        "test_operation.move",
        Reversal.COMPENSATED,
        DEFAULT_DEADLINE,
    )
    assert move.undo is not None
    assert (move.undo.name, move.undo.wants) == ("test_operation.move_back", ("result", "copies", "account"))
    assert (burn.reversal, burn.reason, burn.deadline) == (Reversal.IRREVERSIBLE, "gone", timedelta(seconds=9))
    assert (ask.reversal, ask.undo) == (Reversal.NOTHING, None)


async def test_the_body_runs_the_function_itself() -> None:
    assert await move.body(NO_TRANSACTION, "a", FIVE) == Pair(5, "a")


async def test_a_compensation_receives_its_parameters_by_name() -> None:
    undone.clear()

    await move.compensate(NO_TRANSACTION, move("a", FIVE, copies=3).arguments, move.signature.dump_result(Pair(5, "a")))

    assert undone == [(Pair(5, "a"), 3, "a")]


async def test_a_compensation_of_an_older_record_receives_the_default_of_a_newer_parameter() -> None:
    undone.clear()

    await move.compensate(NO_TRANSACTION, {"account": "a", "amount": {"minor": 5}}, [5, "a"])

    assert undone == [(Pair(5, "a"), 1, "a")]


async def test_an_irreversible_operation_has_no_compensation_to_run() -> None:
    with pytest.raises(UsageError, match=r"test_operation\.burn has no compensation"):
        await burn.compensate(NO_TRANSACTION, {"reason": "a"}, None)


def test_a_record_that_does_not_match_the_current_types_is_refused() -> None:
    for recorded in ({"account": "a"}, {"account": "a", "amount": {"minor": "5"}}, {"more": 1}):
        with pytest.raises(ValidationError):
            move.signature.load_arguments(cast(dict[str, JsonValue], recorded))
    with pytest.raises(ValidationError):
        move.signature.load_result([5])


def _carrier(hint: Any) -> Operation[[Any], Any]:
    async def carry(tx: Transaction, value: Any) -> Any:
        return value

    carry.__annotations__.update(value=hint, **{"return": hint})
    carrier = query(carry)
    carrier.signature.build()
    return carrier


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, 2**80),
        (str, "ä\u2028🙂"),
        (bool, True),
        (None, None),
        (float, 0.1),
        (Decimal, Decimal("1.10")),
        (date, date(2026, 1, 1)),
        (datetime, datetime(2026, 1, 1, 1, 2, 3, 4, tzinfo=UTC)),
        (timedelta, timedelta(days=3, microseconds=7)),
        (UUID, UUID(int=7)),
        (Colour, Colour.RED),
        (Pair, Pair(1, "b")),
        (Point, Point(1, 2)),
        (Money, Money(minor=5)),
        (Money | None, None),
        (tuple[Money, ...], (Money(minor=1), Money(minor=2))),
        (list[tuple[int, str]], [(1, "a")]),
        (dict[UUID, Point], {UUID(int=1): Point(1, 2)}),
        (dict[int, str], {1: "a"}),
    ],
)
def test_arguments_and_results_are_read_back_unchanged(hint: Any, value: Any) -> None:
    carrier = _carrier(hint)

    arguments = carrier.signature.load_arguments(carrier(value).arguments)
    result = carrier.signature.load_result(carrier.signature.dump_result(value))

    assert (arguments["value"], type(arguments["value"])) == (value, type(value))
    assert (result, type(result)) == (value, type(value))


@given(st.text(), st.integers(), st.none() | st.text(), st.integers())
def test_every_call_is_read_back_unchanged_or_refused_for_its_text(
    account: str, minor: int, note: str | None, copies: int
) -> None:
    try:
        call = move(account, Money(minor=minor), note, copies=copies)
    except ValueError as refusal:
        reason = str(refusal)
    else:
        loaded = move.signature.load_arguments(call.arguments)
        assert loaded == {"account": account, "amount": Money(minor=minor), "note": note, "copies": copies}
        return
    assert "which no database column can store" in reason
    assert any("\x00" in text or not text.isascii() for text in (account, note or ""))


@pytest.mark.parametrize(
    ("hint", "result"), [(int, "5"), (int, True), (float, float("nan")), (str, "\x00"), (Money, {"minor": "5"})]
)
def test_a_result_of_the_wrong_type_is_refused(hint: Any, result: Any) -> None:
    with pytest.raises(ValueError, match=r"result"):
        _carrier(hint).signature.dump_result(result)


def test_a_parameter_may_be_named_self() -> None:
    async def odd(tx: Transaction, self: int) -> None: ...

    assert query(odd)(self=1).arguments == {"self": 1}


def test_an_operation_can_be_called_from_many_tasks() -> None:
    async def calls() -> list[object]:
        return list(await asyncio.gather(*(asyncio.to_thread(move, "a", FIVE) for _ in range(8))))

    assert asyncio.run(calls()) == [move("a", FIVE)] * 8
