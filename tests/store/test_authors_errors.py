"""What an error of an operation means: refusals inside groups, results of another type, chains of causes."""

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
    """What the operations below do."""

    returned: Any = 1
    error: Any = None
    found: Any = None


class Price(BaseModel):
    """A result."""

    cents: int


class Cost(BaseModel):
    """Another."""

    cents: int


async def play() -> Any:
    """Raise or return what the test says."""
    if Raises.error is not None:
        raise Raises.error()
    return Raises.returned


@operation
async def as_int(tx: Transaction) -> int:
    """A number."""
    await tx.exec(insert(box).values(name="c", coins=1))
    returned: int = await play()
    return returned


@as_int.compensation
async def undo_int(tx: Transaction) -> None:
    """Nothing."""


@query
async def as_float(tx: Transaction) -> float:
    """A number."""
    returned: float = await play()
    return returned


@query
async def as_model(tx: Transaction) -> Price:
    """A model."""
    returned: Price = await play()
    return returned


@query
async def as_json(tx: Transaction) -> JsonValue:
    """Anything in JSON."""
    returned: JsonValue = await play()
    return returned


@query
async def as_list(tx: Transaction) -> list[int]:
    """Numbers."""
    returned: list[int] = await play()
    return returned


@external_operation(time_limit=timedelta(seconds=30))
async def outside(call: ExternalCall) -> int:
    """A call."""
    returned: int = await play()
    return returned


@outside.compensation
async def undo_outside(call: ExternalCall) -> None:
    """Nothing."""


@outside.verification
async def ask_outside(call: ExternalCall) -> Confirmed[int] | None:
    """What the test says."""
    if isinstance(Raises.found, BaseException):
        raise Raises.found
    found: Confirmed[int] | None = Raises.found
    return found


CATALOG = Catalog.of(
    orchestrators=list(CAST.orchestrators.values()),
    operations=[*CAST.operations.values(), as_int, as_float, as_model, as_json, as_list, outside],
)


@pytest.fixture(autouse=True)
def nothing_raised() -> None:
    """Each test says what it wants."""
    Raises.returned, Raises.error, Raises.found = 1, None, None


def step(call: OperationCall[Any]) -> StepCommand:
    """The saga's first step."""
    return first_step().model_copy(update={"operation": call.operation.name, "arguments": dict(call.arguments)})


async def run(database: Database, call: OperationCall[Any]) -> Any:
    """One attempt."""
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
"""Groups after which an external call may have happened."""
INSIDE = [
    (call, name)
    for call in (as_int(), Atomically(as_int(), as_float()), outside())
    for name in GROUPS
    if call.operation.kind != "external" or name not in UNSURE
]


@pytest.mark.parametrize(("call", "name"), INSIDE, ids=lambda one: one if isinstance(one, str) else one.operation.name)
async def test_a_refusal_inside_a_group_is_the_refusal(stocked: Database, call: OperationCall[Any], name: str) -> None:
    Raises.error = GROUPS[name]
    before = await Holdings.of(stocked)

    reply = await run(stocked, call)

    assert isinstance(reply, StepRefused)
    assert (reply.code, reply.message) == ("box.closed", "it is closed")
    assert [row.state for row in await rows(stocked, saga_step)] == ["refused"]
    assert before == await Holdings.of(stocked)


@pytest.mark.parametrize("name", UNSURE)
async def test_a_refusal_of_an_external_call_beside_another_error_leaves_the_fate_unknown(
    stocked: Database, name: str
) -> None:
    Raises.error = GROUPS[name]

    with pytest.raises((ExceptionGroup, UsageError)):
        await run(stocked, outside())

    # Refused would say that nothing happened, and what the other task did would never be verified or taken back.
    assert [row.state for row in await rows(stocked, saga_step)] == ["attempting"]


async def test_a_refusal_of_a_real_task_group_is_the_refusal(stocked: Database) -> None:
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


async def test_a_mistake_inside_a_group_is_the_mistake(stocked: Database) -> None:
    Raises.error = lambda: ExceptionGroup("tasks", [ValueError("boom"), UsageError("so not")])

    with pytest.raises(UsageError, match="so not"):
        await run(stocked, as_int())


async def test_a_refusal_inside_a_group_of_a_verification_leaves_the_fate_unknown(stocked: Database) -> None:
    Raises.error = lambda: ValueError("boom")
    with pytest.raises(ValueError, match="boom"):
        await run(stocked, outside())
    Raises.found = ExceptionGroup("tasks", [REFUSED])

    with pytest.raises(Refused, match=r"box\.closed"):
        await run(stocked, outside())

    assert [row.state for row in await rows(stocked, saga_step)] == ["attempting"]


WRONG: list[tuple[OperationCall[Any], Any, str]] = [
    (as_int(), Decimal("12.50"), r"authors_errors\.as_int.* returned a value of type Decimal and declares -> int"),
    (as_int(), None, "returned None and declares -> int"),
    (as_int(), "1", "returned a value of type str and declares -> int"),
    (as_int(), 1.5, "returned a value of type float and declares -> int"),
    (as_int(), True, "returned a value of type bool and declares -> int"),
    (as_float(), float("nan"), "returned nan and declares -> float"),
    (as_float(), float("-inf"), "returned -inf and declares -> float"),
    (as_model(), Cost(cents=1), "returned a value of type Cost and declares -> .*Price"),
    (as_model(), ("cents", 1), "returned a value of type tuple and declares -> .*Price"),
    (as_list(), [1, None], r"returned a value of type list and declares -> list\[int\] \(result.1:"),
    (as_json(), object(), "returned a value of type object and declares -> .*"),
    (as_json(), float("nan"), "returned nan and declares"),
    (as_json(), "\x00", "returned a value of type str and declares"),
    (outside(), Decimal(1), "returned a value of type Decimal and declares -> int"),
    (Atomically(as_float(), as_int()), None, "as_float returned None and declares -> float"),
]


@pytest.mark.parametrize(("call", "returned", "said"), WRONG)
async def test_a_result_that_is_not_what_is_declared_is_a_mistake_that_names_both(
    stocked: Database, call: OperationCall[Any], returned: Any, said: str
) -> None:
    Raises.returned = returned
    before = await Holdings.of(stocked)

    with pytest.raises(ResultInvalid, match=said) as raised:
        await run(stocked, call)

    assert isinstance(raised.value, AuthorsMistake)
    assert "12.5" not in str(raised.value)
    assert before == await Holdings.of(stocked)


@pytest.mark.parametrize("found", [7, True, ("Happened", 7)])
async def test_a_verification_that_returns_no_answer_is_a_mistake(stocked: Database, found: Any) -> None:
    Raises.error = lambda: ValueError("boom")
    with pytest.raises(ValueError, match="boom"):
        await run(stocked, outside())
    Raises.found = found

    with pytest.raises(ResultInvalid, match=r"verification of .*outside returned a value of type"):
        await run(stocked, outside())


async def test_a_duplicate_key_is_named_without_its_statement_and_values(stocked: Database) -> None:
    with pytest.raises(DBAPIError) as raised:
        async with stocked.transaction() as connection:
            await connection.execute(insert(box).values(name="a", coins=12_345))

    said = error_text(raised.value)
    assert said.startswith("IntegrityError: ")
    assert "box" in said
    assert not any(part in said for part in ("INSERT", "12345", "(a)", "sqlalche", "\n"))


async def test_a_statement_that_fails_is_named_in_one_line(stocked: Database) -> None:
    with pytest.raises(DBAPIError) as raised:
        async with stocked.transaction() as connection:
            await connection.execute(text("SELECT coins FROM nowhere"))

    assert "nowhere" in error_text(raised.value)
    assert "\n" not in error_text(raised.value)


def test_causes_are_named_and_the_whole_is_bounded() -> None:
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

    said = error_text(fault())
    assert said.startswith("RuntimeError: zzz")
    assert said.endswith("; while handling ValueError: the price is missing; caused by KeyError: 'x'")
    assert len(said) <= 2_000


def test_an_error_without_a_message_or_with_a_broken_one_is_named_by_its_type() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert error_text(TimeoutError()) == "TimeoutError"
    assert error_text(Broken()) == "Broken: its message cannot be read (ValueError)"
    assert error_message(TimeoutError()) == ""


def test_a_chain_that_is_a_circle_ends() -> None:
    first, second = ValueError("one"), ValueError("two")
    first.__cause__, second.__cause__ = second, first

    assert error_text(first) == "ValueError: one; caused by ValueError: two"
