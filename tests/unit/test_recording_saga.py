"""`RecordingSaga`, the saga for an author's tests, records calls and answers them from a table."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator import Contract, OperationCall, Refused, Transaction, UsageError, operation, query
from orchestrator.testing import Atomically, RecordingSaga


class Money(Contract):
    minor: int


@operation(irreversible="a test's")
async def withdraw(tx: Transaction, account: str, amount: Money) -> Money: ...  # type: ignore[empty-body]


@operation(irreversible="a test's")
async def note(tx: Transaction, text: str) -> None: ...


@query
async def label(tx: Transaction, account: str) -> str | None: ...


@query
async def labels(tx: Transaction) -> list[str]: ...  # type: ignore[empty-body]


FIVE, SIX = Money(minor=5), Money(minor=6)
NO = Refused("account.closed", "it is closed")


async def test_calls_are_recorded_in_order_and_answered() -> None:
    saga = RecordingSaga({withdraw: SIX})

    assert await saga.execute(withdraw("a", FIVE)) == SIX
    assert await saga.execute_all(note("x"), withdraw("b", FIVE)) == (None, SIX)
    assert await saga.execute_all(*[note("y")]) == (None,)
    assert saga.calls == [withdraw("a", FIVE), note("x"), withdraw("b", FIVE), note("y")]


async def test_a_list_gives_one_answer_per_call_and_is_not_changed() -> None:
    answers: list[Any] = [FIVE, NO, SIX]
    saga = RecordingSaga({withdraw: answers})

    assert await saga.execute(withdraw("a", FIVE)) == FIVE
    with pytest.raises(Refused):
        await saga.execute(withdraw("a", FIVE))
    assert await saga.execute(withdraw("a", FIVE)) == SIX
    with pytest.raises(UsageError, match=r"no answer left for call 4, test_recording_saga\.withdraw\(account='a'"):
        await saga.execute(withdraw("a", FIVE))
    assert answers == [FIVE, NO, SIX]


async def test_a_list_as_an_answer_is_written_inside_of_a_list() -> None:
    assert await RecordingSaga({labels: [["a", "b"]]}).execute(labels()) == ["a", "b"]


async def test_a_function_computes_an_answer_and_may_refuse() -> None:
    def answer(call: OperationCall[Any]) -> object:
        return FIVE if call.arguments["account"] == "a" else NO

    saga = RecordingSaga({withdraw: answer})

    assert await saga.execute(withdraw("a", SIX)) == FIVE
    with pytest.raises(Refused):
        await saga.execute(withdraw("b", SIX))


async def test_a_refusal_is_raised_and_later_calls_of_the_batch_are_not_made() -> None:
    saga = RecordingSaga({withdraw: NO})

    with pytest.raises(Refused, match=r"account\.closed: it is closed"):
        await saga.execute_all(note("x"), withdraw("a", FIVE), note("y"))

    assert saga.calls == [note("x"), withdraw("a", FIVE)]


async def test_a_parallel_batch_makes_all_calls_and_raises_the_first_refusal() -> None:
    saga = RecordingSaga({withdraw: NO, label: Refused("account.unknown", "second")})

    with pytest.raises(Refused, match=r"account\.closed"):
        await saga.execute_all(note("x"), withdraw("a", FIVE), label("a"), note("y"), parallel=True)

    assert saga.calls == [note("x"), withdraw("a", FIVE), label("a"), note("y")]


async def test_a_missing_answer_is_reported_with_the_code_to_write() -> None:
    with pytest.raises(UsageError, match=r"RecordingSaga\(\{test_recording_saga\.withdraw: \.\.\.\}\)"):
        await RecordingSaga().execute(withdraw("a", FIVE))


async def test_none_counts_as_an_answer() -> None:
    assert await RecordingSaga({label: None}).execute(label("a")) is None
    with pytest.raises(UsageError):
        await RecordingSaga().execute(label("a"))


async def test_an_answer_of_another_type_is_refused() -> None:
    with pytest.raises(ValidationError):
        await RecordingSaga({withdraw: 5}).execute(withdraw("a", FIVE))


def test_ids_time_and_randomness_are_deterministic() -> None:
    saga, repeat, other = RecordingSaga(), RecordingSaga(), RecordingSaga(event_id="event-2")

    ids = [saga.uuid(), saga.uuid()]
    assert ids == [repeat.uuid(), repeat.uuid()]
    assert len({*ids, other.uuid()}) == 3
    assert saga.random.random() == repeat.random.random() != other.random.random()
    assert (saga.event_id, saga.event_time) == ("event-1", datetime(2026, 1, 1, tzinfo=UTC))


async def test_an_atomic_step_is_one_call_with_its_calls() -> None:
    saga = RecordingSaga({withdraw: SIX, label: "savings"})

    assert await saga.execute_atomically(withdraw("a", FIVE), label("a"), note("moved")) == (SIX, "savings", None)
    assert await saga.execute_atomically(*[label("b"), label("c")]) == ("savings", "savings")

    assert saga.calls == [
        Atomically(withdraw("a", FIVE), label("a"), note("moved")),
        Atomically(label("b"), label("c")),
    ]


async def test_a_refusal_in_an_atomic_step_is_raised() -> None:
    saga = RecordingSaga({label: NO, withdraw: SIX})

    with pytest.raises(Refused):
        await saga.execute_atomically(withdraw("a", FIVE), label("a"))
