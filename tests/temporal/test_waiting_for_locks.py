"""A saga with an execution of its own that waits for a lock: woken by whoever held it, or looking by itself."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy import update
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle

from orchestrator.errors import SagaCancelled
from orchestrator.protocol import names
from orchestrator.protocol.commands import FinishCommand
from orchestrator.store.core.schema import saga
from orchestrator.store.locks import Waker, Woken, wake_nobody
from orchestrator.store.saga.finish import finish_saga
from orchestrator.worker.waking import SignalWaker
from orchestrator.workflow import steps as port
from tests.cast_events import TurnTakingCompleted, TurnTakingRequested
from tests.house import House, eventually, new_id
from tests.orchestrators import TurnTaking
from tests.store.test_locks import opened, opening, tickets

HOLDER = opening("holder", "k")


async def one_waits(house: House, event_id: str) -> "asyncio.Task[TurnTakingCompleted]":
    """For a lock that a saga holds which nobody drives."""
    await opened(house.database, HOLDER)
    event = TurnTakingRequested(keys=("k",))
    waiting = asyncio.create_task(house.bus.execute(TurnTaking, event, event_id=event_id))

    async def waits() -> bool:
        if await tickets(house.database) != {"k": ["holder", event_id]}:
            return False
        history = await house.client.get_workflow_handle(names.own_workflow_id("TurnTaking", event_id)).fetch_history()
        return any(event.event_type == EventType.EVENT_TYPE_TIMER_STARTED for event in history.events)

    await eventually(waits, "it waits")
    return waiting


async def end_holder(house: House, waker: Waker) -> None:
    """It gives its lock back."""
    await finish_saga(house.database, house.catalog, FinishCommand(opening=HOLDER, completed={}), waker)


async def test_the_next_one_is_woken_and_need_not_look_by_itself(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port, "LOOKS", (3_600.0,))
    event_id = new_id()
    waiting = await one_waits(house, event_id)
    await end_holder(house, SignalWaker(house.client))
    async with asyncio.timeout(30):
        await waiting
    assert await tickets(house.database) == {}


async def test_a_wake_that_was_begun_has_been_sent_when_its_waker_ends(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that drains may be the last one for a while."""
    monkeypatch.setattr(port, "LOOKS", (3_600.0,))
    event_id = new_id()
    waiting = await one_waits(house, event_id)
    server_answers = asyncio.Event()
    signal = cast(Any, WorkflowHandle[Any, Any]).signal

    async def signal_late(*arguments: Any, **options: Any) -> None:
        await server_answers.wait()
        await signal(*arguments, **options)

    monkeypatch.setattr(WorkflowHandle, "signal", signal_late)
    async with SignalWaker(house.client) as waker:
        await end_holder(house, waker)
        asyncio.get_running_loop().call_later(0.1, server_answers.set)
    history = await house.client.get_workflow_handle(names.own_workflow_id("TurnTaking", event_id)).fetch_history()
    signals = [event.workflow_execution_signaled_event_attributes.signal_name for event in history.events]
    assert names.WAKE_SIGNAL in signals
    async with asyncio.timeout(30):
        await waiting


async def test_nobody_wakes_it_and_it_looks_by_itself(house: House) -> None:
    """As after a worker that died between the commit and the wake."""
    event_id = new_id()
    waiting = await one_waits(house, event_id)
    await end_holder(house, wake_nobody)
    async with asyncio.timeout(30):
        await waiting
    assert await tickets(house.database) == {}


async def test_a_cancelled_one_that_waits_leaves_the_line(house: House) -> None:
    event_id = new_id()
    waiting = await one_waits(house, event_id)
    await house.client.get_workflow_handle(names.own_workflow_id("TurnTaking", event_id)).cancel()
    async with asyncio.timeout(30):
        with pytest.raises(SagaCancelled):
            await waiting
    assert await tickets(house.database) == {"k": ["holder"]}


async def test_whose_execution_was_terminated_while_it_waited_is_recovered_when_its_turn_comes(house: House) -> None:
    """And not when recovery next looks: in a line of many each would wait for that."""
    event_id = new_id()
    waiting = await one_waits(house, event_id)
    await house.client.get_workflow_handle(names.own_workflow_id("TurnTaking", event_id)).terminate("enough")
    await end_holder(house, SignalWaker(house.client, house.manager.recovery(house.ready).recover))
    async with asyncio.timeout(30):
        with pytest.raises(SagaCancelled, match="enough"):
            await waiting
    assert await tickets(house.database) == {}


async def test_who_was_given_an_execution_while_its_partition_owned_it_is_woken_there(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It owns the saga only once it has its locks."""
    monkeypatch.setattr(port, "LOOKS", (3_600.0,))
    event_id = new_id()
    waiting = await one_waits(house, event_id)
    async with house.database.transaction() as connection:
        gone = update(saga).where(saga.c.event_id == event_id).values(owner_workflow_id="TurnTaking/partition/1-of-1")
        await connection.execute(gone)
    await end_holder(house, SignalWaker(house.client))
    async with asyncio.timeout(30):
        await waiting


async def test_a_wake_for_nobody_ends_no_worker_and_tells_recovery(house: House) -> None:
    told: list[UUID] = []

    async def recover(sagas: Sequence[UUID]) -> None:
        told.extend(sagas)

    gone = Woken(saga=HOLDER.saga, owner_workflow_id="TurnTaking/event/nobody")
    await SignalWaker(house.client, recover)([gone])

    async def is_told() -> bool:
        return told == [HOLDER.saga.id]

    await eventually(is_told, "it is told")
    await house.manager.recovery(house.ready).recover(told)  # nobody knows it
