"""A saga in its own execution waits for a lock: the holder wakes it, or it polls."""

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
from orchestrator.store.locks import Waker, Woken, wake_none
from orchestrator.store.saga.finish import finish_saga
from orchestrator.worker.waking import SignalWaker
from orchestrator.workflow import steps as port
from tests.cast_events import TurnTakingCompleted, TurnTakingRequested
from tests.house import House, eventually, new_id
from tests.orchestrators import TurnTaking
from tests.store.test_locks import opened, opening, tickets

HOLDER = opening("holder", "k")


async def start_waiting(house: House, event_id: str) -> "asyncio.Task[TurnTakingCompleted]":
    """Start a saga that waits for a lock whose holder nothing drives."""
    await opened(house.database, HOLDER)
    event = TurnTakingRequested(keys=("k",))
    waiting = asyncio.create_task(house.bus.execute(TurnTaking, event, event_id=event_id))

    async def waits() -> bool:
        if await tickets(house.database) != {"k": ["holder", event_id]}:
            return False
        history = await house.client.get_workflow_handle(names.own_workflow_id("TurnTaking", event_id)).fetch_history()
        return any(event.event_type == EventType.EVENT_TYPE_TIMER_STARTED for event in history.events)

    await eventually(waits, "the saga waits")
    return waiting


async def end_holder(house: House, waker: Waker) -> None:
    """Finish the holder, which releases its lock."""
    await finish_saga(house.database, house.catalog, FinishCommand(opening=HOLDER, completed={}), waker)


async def test_a_waiting_saga_is_woken_and_need_not_poll(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port, "LOOKS", (3_600.0,))
    event_id = new_id()
    waiting = await start_waiting(house, event_id)
    await end_holder(house, SignalWaker(house.client))
    async with asyncio.timeout(30):
        await waiting
    assert await tickets(house.database) == {}


async def test_a_waker_has_sent_every_wake_before_it_closes(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that drains may be the last one for a while."""
    monkeypatch.setattr(port, "LOOKS", (3_600.0,))
    event_id = new_id()
    waiting = await start_waiting(house, event_id)
    sending, server_answers, is_sent = asyncio.Event(), asyncio.Event(), asyncio.Event()
    signal = cast(Any, WorkflowHandle[Any, Any]).signal

    async def signal_late(*arguments: Any, **options: Any) -> None:
        sending.set()
        await server_answers.wait()
        await signal(*arguments, **options)
        is_sent.set()

    monkeypatch.setattr(WorkflowHandle, "signal", signal_late)
    async with SignalWaker(house.client) as waker:
        await end_holder(house, waker)
        await sending.wait()
        asyncio.get_running_loop().call_soon(server_answers.set)  # the waker is closing by then
    assert is_sent.is_set()
    history = await house.client.get_workflow_handle(names.own_workflow_id("TurnTaking", event_id)).fetch_history()
    signals = [event.workflow_execution_signaled_event_attributes.signal_name for event in history.events]
    assert names.WAKE_SIGNAL in signals
    async with asyncio.timeout(30):
        await waiting


async def test_a_waiting_saga_polls_if_it_is_not_woken(house: House) -> None:
    """A worker may die between the commit and the wake."""
    event_id = new_id()
    waiting = await start_waiting(house, event_id)
    await end_holder(house, wake_none)
    async with asyncio.timeout(30):
        await waiting
    assert await tickets(house.database) == {}


async def test_a_cancelled_saga_leaves_the_queue_of_the_lock(house: House) -> None:
    event_id = new_id()
    waiting = await start_waiting(house, event_id)
    await house.client.get_workflow_handle(names.own_workflow_id("TurnTaking", event_id)).cancel()
    async with asyncio.timeout(30):
        with pytest.raises(SagaCancelled):
            await waiting
    assert await tickets(house.database) == {"k": ["holder"]}


async def test_a_saga_whose_execution_was_terminated_while_it_waited_is_recovered_once_it_is_next(
    house: House,
) -> None:
    """It must not wait for the next sweep; in a long queue every saga would wait for one."""
    event_id = new_id()
    waiting = await start_waiting(house, event_id)
    await house.client.get_workflow_handle(names.own_workflow_id("TurnTaking", event_id)).terminate("enough")
    await end_holder(house, SignalWaker(house.client, house.manager.recovery(house.ready).recover))
    async with asyncio.timeout(30):
        with pytest.raises(SagaCancelled, match="enough"):
            await waiting
    assert await tickets(house.database) == {}


async def test_a_saga_that_its_partition_still_owns_is_woken_in_its_own_execution(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An execution owns the saga only once the saga has its locks."""
    monkeypatch.setattr(port, "LOOKS", (3_600.0,))
    event_id = new_id()
    waiting = await start_waiting(house, event_id)
    async with house.database.transaction() as connection:
        gone = update(saga).where(saga.c.event_id == event_id).values(owner_workflow_id="TurnTaking/partition/1-of-1")
        await connection.execute(gone)
    await end_holder(house, SignalWaker(house.client))
    async with asyncio.timeout(30):
        await waiting


async def test_a_wake_for_a_missing_execution_does_not_end_the_worker_and_calls_recovery(house: House) -> None:
    recovered: list[UUID] = []

    async def recover(sagas: Sequence[UUID]) -> None:
        recovered.extend(sagas)

    gone = Woken(saga=HOLDER.saga, owner_workflow_id="TurnTaking/event/nobody")
    await SignalWaker(house.client, recover)([gone])

    async def is_called() -> bool:
        return recovered == [HOLDER.saga.id]

    await eventually(is_called, "recovery is called")
    await house.manager.recovery(house.ready).recover(recovered)  # the database does not know the saga
