"""An external call that returns after its saga was undone: its effect, unknown until then, is undone."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest

from orchestrator.definition.catalog import Catalog
from orchestrator.external import Confirmed, ExternalCall, external_operation
from orchestrator.protocol.commands import (
    BeginUndoCommand,
    Decided,
    Opening,
    Phase,
    SagaRef,
    StepCommand,
    UndoCommand,
    Undone,
)
from orchestrator.protocol.messages.envelope import saga_id, wrap
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_step
from orchestrator.store.saga.steps import StoreSteps
from tests.cast_events import NothingRequested
from tests.house import rows
from tests.orchestrators import Nothing

TIME = datetime(2026, 1, 1, tzinfo=UTC)
SAGA = SagaRef(id=saga_id("Nothing", "one"), orchestrator="Nothing", event_id="one")
OPENING = Opening(
    saga=SAGA, envelope=wrap(NothingRequested(refuse=False), event_id="one", source="tests", time=TIME).text
)


class Shop:
    """The external service: a shop that does not know a request until it has arrived."""

    reserved: ClassVar[list[str]] = []
    reached: ClassVar[asyncio.Event]
    opened: ClassVar[asyncio.Event]


@pytest.fixture(autouse=True)
def empty_shop() -> None:
    """Reset the shop: nothing is reserved and no request is in flight."""
    Shop.reserved.clear()
    Shop.reached, Shop.opened = asyncio.Event(), asyncio.Event()


@external_operation(time_limit=timedelta(milliseconds=500))
async def reserve(call: ExternalCall, item: str) -> None:
    """Reserve an item with a request that stays in flight beyond its time limit, as after SIGSTOP."""
    Shop.reached.set()
    arriving = asyncio.ensure_future(Shop.opened.wait())
    while not arriving.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(arriving)
    Shop.reserved.append(item)


@reserve.compensation
async def release(call: ExternalCall, item: str) -> None:
    """Release the item."""
    Shop.reserved.remove(item)


@reserve.verification
async def is_reserved(call: ExternalCall, item: str) -> Confirmed[None] | None:
    """Confirm the reservation if the shop has it."""
    return Confirmed(None) if item in Shop.reserved else None


async def test_an_external_call_that_returns_after_its_undo_is_undone(stocked: Database) -> None:
    steps = StoreSteps(stocked, Catalog.of(orchestrators=[Nothing], operations=[reserve]))
    step = StepCommand(
        saga=SAGA,
        number=1,
        operation=reserve.name,
        arguments={"item": "boat"},
        event_time=TIME.isoformat(),
        opening=OPENING,
    )
    late = asyncio.create_task(steps.run(step, timedelta(minutes=5)))
    await Shop.reached.wait()
    await steps.begin_undo(
        BeginUndoCommand(opening=OPENING, ends_as=Phase.CANCELLED, error_code="saga.cancelled", message="")
    )
    undo = UndoCommand(saga=SAGA, number=1, operation=reserve.name, event_time=TIME.isoformat())
    undone = await steps.undo(undo, "release")
    barred = [row.state for row in await rows(stocked, saga_step)]

    Shop.opened.set()
    reply = await late

    assert undone == Undone(number=1)
    assert Shop.reserved == []
    assert barred == ["barred"]
    assert reply == Decided(phase=Phase.UNDOING)
    assert [row.state for row in await rows(stocked, saga_step)] == ["undone"]
