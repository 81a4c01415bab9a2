"""The error that clients and the CLI see when a step fails: during retries, when it is given up, and in an undo."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import insert
from temporalio.client import Client

from orchestrator import SagaFailed, Transaction
from orchestrator.cli.diagnosis.blocked_reason import reason_of
from orchestrator.protocol.names import own_workflow_id
from orchestrator.store.core.database import Database
from tests.cast import Act, Script, box, refuses
from tests.cast_events import CoinsMoveRequested, HurryRequested
from tests.house import CATALOG, House, eventually, open_house
from tests.orchestrators import Hurry

MOVE = CoinsMoveRequested(source="a", target="b", coins=10)


@pytest.fixture
async def house(database: Database, client: Client) -> AsyncGenerator[House]:
    async with open_house(client, database, CATALOG, task_queue=f"failing-{uuid4()}") as opened:
        yield opened


async def duplicate(tx: Transaction) -> None:
    """Insert a duplicate key, in a statement with many values."""
    await tx.exec(insert(box).values([{"name": "a", "coins": number} for number in range(300)]))


async def boom(tx: Transaction) -> None:
    """Raise an error with a long message and a cause."""
    try:
        raise KeyError("x")
    except KeyError as cause:
        raise ValueError("boom" + "!" * 5_000) from cause


def set_deadlines(house: House, monkeypatch: pytest.MonkeyPatch, deadline: timedelta) -> None:
    """Set the deadline of each operation."""
    for operation in house.catalog.operations.values():
        monkeypatch.setattr(operation, "deadline", deadline)


@pytest.mark.parametrize(
    ("act", "expected"),
    [(boom, "ValueError: boom!!!"), (duplicate, "IntegrityError: ")],
    ids=["error", "duplicate key"],
)
async def test_the_last_error_is_shown_during_retries_and_when_the_step_is_given_up(
    house: House, act: Act, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_deadlines(house, monkeypatch, timedelta(seconds=2))
    Script.before["put"] = act
    event_id = str(uuid4())
    [saga] = await house.bus.publish(MOVE, event_id=event_id)
    sentences: list[str] = []

    async def is_retried() -> bool:
        reason = await reason_of(house.client, own_workflow_id("CoinsMove", event_id))
        sentences[:] = [reason.sentence if reason else ""]
        return "the last failure" in sentences[0]

    await eventually(is_retried, "the step is retried")
    with pytest.raises(SagaFailed) as raised:
        await saga.result()

    assert expected in sentences[0]
    assert "size limit" not in sentences[0]
    message = raised.value.message
    assert message.startswith(f"step 2, cast.put: {expected}")
    assert "; given up after " in message
    [row] = await house.sagas()
    assert row.message == message
    assert raised.value.failure.message == message


async def test_the_last_error_is_part_of_the_message_when_the_sagas_deadline_ends_it(house: House) -> None:
    Script.before["put"] = boom

    with pytest.raises(SagaFailed) as raised:
        await house.bus.execute(Hurry, HurryRequested(coins=10))

    assert raised.value.code == "saga.deadline_exceeded"
    assert "; the last attempt of step 2, cast.put, failed with ValueError: boom" in raised.value.message


async def test_a_compensation_that_fails_shows_its_error(house: House) -> None:
    Script.before["write_note"] = refuses()
    Script.before["take_out"] = boom
    event_id = str(uuid4())
    await house.bus.publish(MOVE, event_id=event_id)

    async def is_stuck() -> bool:
        return any(row.stuck_error for row in await house.sagas())

    await eventually(is_stuck, "the saga is stuck")
    [row] = await house.sagas()
    Script.clear()  # lets the saga end
    assert row.stuck_error.startswith("undoing cast.put: ValueError: boom!!!")
    assert row.stuck_error.endswith("caused by KeyError: 'x'")
