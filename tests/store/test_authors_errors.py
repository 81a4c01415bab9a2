"""How an operation's error is interpreted: refusals inside groups, results of the wrong type, chains of causes."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, JsonValue
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError

from orchestrator import Confirmed, ExternalCall, Refused, Transaction, external_operation, operation, query
from orchestrator.definition.atomic import Atomically
from orchestrator.definition.catalog import Catalog
from orchestrator.errors import AuthorsMistake, ResultInvalid, UsageError
from orchestrator.operation import OperationCall
from orchestrator.protocol.commands import StepCommand, StepRefused
from orchestrator.store.core.database import Database
from orchestrator.store.core.error_text import error_message, error_text
from orchestrator.store.core.schema import saga_step
from orchestrator.store.saga.steps import StoreSteps
from tests.cast import box
from tests.house import CATALOG as CAST
from tests.house import Holdings, rows
from tests.store.test_fence import first_step


class Raises:
    """What the operations below return or raise."""

    returned: Any = 1
    error: Any = None
    found: Any = None


class Price(BaseModel):
    """The declared type of a result."""

    cents: int


class Cost(BaseModel):
    """Another type with the same fields."""

    cents: int


async def return_or_raise() -> Any:
    """Raise or return what the test has set."""
    if Raises.error is not None:
        raise Raises.error()
    return Raises.returned


@operation
async def as_int(tx: Transaction) -> int:
    """Write a row and return a number."""
    await tx.exec(insert(box).values(name="c", coins=1))
    returned: int = await return_or_raise()
    return returned


@as_int.compensation
async def undo_int(tx: Transaction) -> None:
    """Undo nothing."""


@query
async def as_float(tx: Transaction) -> float:
    """Return a number."""
    returned: float = await return_or_raise()
    return returned


@query
async def as_model(tx: Transaction) -> Price:
    """Return a model."""
    returned: Price = await return_or_raise()
    return returned


@query
async def as_json(tx: Transaction) -> JsonValue:
    """Return any JSON value."""
    returned: JsonValue = await return_or_raise()
    return returned


@query
async def as_list(tx: Transaction) -> list[int]:
    """Return a list of numbers."""
    returned: list[int] = await return_or_raise()
    return returned


@external_operation(time_limit=timedelta(seconds=30))
async def outside(call: ExternalCall) -> int:
    """Call an external service."""
    returned: int = await return_or_raise()
    return returned


@outside.compensation
async def undo_outside(call: ExternalCall) -> None:
    """Undo nothing."""


@outside.verification
async def ask_outside(call: ExternalCall) -> Confirmed[int] | None:
    """Return or raise what the test has set."""
    if isinstance(Raises.found, BaseException):
        raise Raises.found
    found: Confirmed[int] | None = Raises.found
    return found


CATALOG = Catalog.of(
    orchestrators=list(CAST.orchestrators.values()),
    operations=[*CAST.operations.values(), as_int, as_float, as_model, as_json, as_list, outside],
)


@pytest.fixture(autouse=True)
def reset_results() -> None:
    """Reset what the operations return or raise."""
    Raises.returned, Raises.error, Raises.found = 1, None, None


def step(call: OperationCall[Any]) -> StepCommand:
    """The command of the saga's first step."""
    return first_step().model_copy(update={"operation": call.operation.name, "arguments": dict(call.arguments)})


async def run(database: Database, call: OperationCall[Any]) -> Any:
    """Attempt the call once, as the saga's first step."""
    return await StoreSteps(database, CATALOG).run(step(call), timedelta(minutes=5))


REFUSED = Refused("box.closed", "it is closed")
GROUPS = {
    "alone": lambda: ExceptionGroup("tasks", [REFUSED]),
    "nested": lambda: ExceptionGroup("tasks", [ExceptionGroup("inner", [ExceptionGroup("innermost", [REFUSED])])]),
    "beside another error": lambda: ExceptionGroup("tasks", [ValueError("boom"), REFUSED]),
    "two": lambda: ExceptionGroup("tasks", [REFUSED, Refused("box.other", "another")]),
    "beside a mistake": lambda: ExceptionGroup("tasks", [UsageError("so not"), REFUSED]),
}


UNSURE = ["beside another error", "beside a mistake"]
"""Groups that leave it unknown whether an external call happened."""
INSIDE = [
    (call, name)
    for call in (as_int(), Atomically(as_int(), as_float()), outside())
    for name in GROUPS
    if call.operation.kind != "external" or name not in UNSURE
]


@pytest.mark.parametrize(
    ("call", "name"), INSIDE, ids=lambda value: value if isinstance(value, str) else value.operation.name
)
async def test_a_refusal_inside_an_exception_group_counts_as_a_refusal(
    stocked: Database, call: OperationCall[Any], name: str
) -> None:
    Raises.error = GROUPS[name]
    before = await Holdings.of(stocked)

    reply = await run(stocked, call)

    assert isinstance(reply, StepRefused)
    assert (reply.code, reply.message) == ("box.closed", "it is closed")
    assert [row.state for row in await rows(stocked, saga_step)] == ["refused"]
    assert before == await Holdings.of(stocked)


@pytest.mark.parametrize("name", UNSURE)
async def test_an_external_refusal_beside_another_error_leaves_the_result_unknown(stocked: Database, name: str) -> None:
    Raises.error = GROUPS[name]

    with pytest.raises((ExceptionGroup, UsageError)):
        await run(stocked, outside())

    # Recorded as refused, the effect of the other task would never be verified or undone.
    assert [row.state for row in await rows(stocked, saga_step)] == ["attempting"]


async def test_a_refusal_raised_by_a_task_group_counts_as_a_refusal(stocked: Database) -> None:
    async def refuses() -> None:
        raise REFUSED

    async def in_tasks() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(60))
            group.create_task(refuses())

    with pytest.raises(ExceptionGroup) as raised:
        await in_tasks()
    Raises.error = lambda: raised.value

    assert isinstance(await run(stocked, as_int()), StepRefused)


async def test_a_group_of_other_errors_names_each_of_them(stocked: Database) -> None:
    Raises.error = lambda: ExceptionGroup("tasks", [ValueError("boom"), KeyError("x")])

    with pytest.raises(ExceptionGroup) as raised:
        await run(stocked, as_int())

    assert error_text(raised.value) == "ExceptionGroup: tasks (2 sub-exceptions): ValueError: boom; KeyError: 'x'"


async def test_a_usage_error_inside_a_group_is_raised_as_itself(stocked: Database) -> None:
    Raises.error = lambda: ExceptionGroup("tasks", [ValueError("boom"), UsageError("so not")])

    with pytest.raises(UsageError, match="so not"):
        await run(stocked, as_int())


async def test_a_refusal_in_a_verifications_group_leaves_the_result_unknown(stocked: Database) -> None:
    Raises.error = lambda: ValueError("boom")
    with pytest.raises(ValueError, match="boom"):
        await run(stocked, outside())
    Raises.found = ExceptionGroup("tasks", [REFUSED])

    with pytest.raises(Refused, match=r"box\.closed"):
        await run(stocked, outside())

    assert [row.state for row in await rows(stocked, saga_step)] == ["attempting"]


WRONG: list[tuple[OperationCall[Any], Any, str]] = [
    (as_int(), Decimal("12.50"), r"authors_errors\.as_int.* returned a value of type Decimal, but declares -> int"),
    (as_int(), None, "returned None, but declares -> int"),
    (as_int(), "1", "returned a value of type str, but declares -> int"),
    (as_int(), 1.5, "returned a value of type float, but declares -> int"),
    (as_int(), True, "returned a value of type bool, but declares -> int"),
    (as_float(), float("nan"), "returned nan, but declares -> float"),
    (as_float(), float("-inf"), "returned -inf, but declares -> float"),
    (as_model(), Cost(cents=1), "returned a value of type Cost, but declares -> .*Price"),
    (as_model(), ("cents", 1), "returned a value of type tuple, but declares -> .*Price"),
    (as_list(), [1, None], r"returned a value of type list, but declares -> list\[int\] \(result.1:"),
    (as_json(), object(), "returned a value of type object, but declares -> .*"),
    (as_json(), float("nan"), "returned nan, but declares"),
    (as_json(), "\x00", "returned a value of type str, but declares"),
    (outside(), Decimal(1), "returned a value of type Decimal, but declares -> int"),
    (Atomically(as_float(), as_int()), None, "as_float returned None, but declares -> float"),
]


@pytest.mark.parametrize(("call", "returned", "message"), WRONG)
async def test_a_result_of_the_wrong_type_is_a_mistake_that_names_both_types(
    stocked: Database, call: OperationCall[Any], returned: Any, message: str
) -> None:
    Raises.returned = returned
    before = await Holdings.of(stocked)

    with pytest.raises(ResultInvalid, match=message) as raised:
        await run(stocked, call)

    assert isinstance(raised.value, AuthorsMistake)
    assert "12.5" not in str(raised.value)
    assert before == await Holdings.of(stocked)


@pytest.mark.parametrize("found", [7, True, ("Happened", 7)])
async def test_a_verification_that_returns_neither_a_confirmation_nor_none_is_a_mistake(
    stocked: Database, found: Any
) -> None:
    Raises.error = lambda: ValueError("boom")
    with pytest.raises(ValueError, match="boom"):
        await run(stocked, outside())
    Raises.found = found

    with pytest.raises(ResultInvalid, match=r"verification of .*outside returned a value of type"):
        await run(stocked, outside())


async def test_the_text_of_a_duplicate_key_error_has_neither_statement_nor_values(stocked: Database) -> None:
    with pytest.raises(DBAPIError) as raised:
        async with stocked.transaction() as connection:
            await connection.execute(insert(box).values(name="a", coins=12_345))

    message = error_text(raised.value)
    assert message.startswith("IntegrityError: ")
    assert "box" in message
    assert not any(part in message for part in ("INSERT", "12345", "(a)", "sqlalche", "\n"))


async def test_the_text_of_a_failed_statement_is_one_line(stocked: Database) -> None:
    with pytest.raises(DBAPIError) as raised:
        async with stocked.transaction() as connection:
            await connection.execute(text("SELECT coins FROM nowhere"))

    assert "nowhere" in error_text(raised.value)
    assert "\n" not in error_text(raised.value)


def test_an_errors_text_names_its_causes_and_is_bounded() -> None:
    def fault() -> Exception:
        try:
            try:
                raise KeyError("x")
            except KeyError as first:
                raise ValueError("the price\nis missing") from first
        except ValueError:
            try:
                raise RuntimeError("z" * 100_000)
            except RuntimeError as last:
                return last

    message = error_text(fault())
    assert message.startswith("RuntimeError: zzz")
    assert message.endswith("; while handling ValueError: the price is missing; caused by KeyError: 'x'")
    assert len(message) <= 2_000


def test_an_error_whose_message_is_missing_or_unreadable_is_named_by_its_type() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert error_text(TimeoutError()) == "TimeoutError"
    assert error_text(Broken()) == "Broken: its message cannot be read (ValueError)"
    assert error_message(TimeoutError()) == ""


def test_a_circular_chain_of_causes_ends() -> None:
    first, second = ValueError("one"), ValueError("two")
    first.__cause__, second.__cause__ = second, first

    assert error_text(first) == "ValueError: one; caused by ValueError: two"
