"""Payments on a real Temporal server: whatever is interrupted, a card is charged once and refunded at most once."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client, WorkflowExecutionStatus

from orchestrator.protocol.commands import Phase
from orchestrator.store.core.database import Database
from orchestrator.store.external.undo import orphaned_effects, undo_orphan
from tests.external.orchestrators import PAYMENTS, ParcelRequested, PaymentRequested
from tests.external.supervisor import Supervisor
from tests.external.wire import PORT_VARIABLE, Wire, breaks
from tests.house import House, eventually, new_id, open_house


@pytest.fixture
async def house(database: Database, client: Client) -> AsyncGenerator[House]:
    """A house with the payment orchestrators and a worker."""
    async with open_house(client, database, PAYMENTS, task_queue=f"payments-{uuid4()}") as house:
        yield house


@pytest.fixture
async def empty_house(database: Database, client: Client) -> AsyncGenerator[House]:
    """A house with the payment orchestrators and without a worker."""
    async with open_house(client, database, PAYMENTS, task_queue=f"payments-{uuid4()}", working=False) as house:
        yield house


def totals(service: Supervisor) -> tuple[int, int]:
    """The numbers of charges and refunds."""
    return service.done("charges"), service.done("refunds")


async def until_charged(service: Supervisor) -> None:
    """Wait until the service has made a charge."""

    async def charged() -> bool:
        return service.done("charges") == 1

    await eventually(charged, "the service has charged")


async def until_phase(house: House, phase: str) -> None:
    """Wait until the saga's row has a phase."""

    async def has_phase() -> bool:
        return [saga.phase for saga in await house.sagas()] == [phase]

    await eventually(has_phase, f"the saga is {phase}")


async def coins(house: House) -> int:
    """The coins in box `a`, at first a hundred."""
    return (await house.holdings()).boxes["a"]


@asynccontextmanager
async def worker_process(house: House, service: Supervisor) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A worker in its own process; it is killed at the end."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith(("ORCHESTRATOR_", "TEMPORAL_"))}
    own = {
        "TEMPORAL_ADDRESS": house.client.service_client.config.target_host,
        "ORCHESTRATOR_DATABASE_URL": house.database.url.render_as_string(hide_password=False),
        "ORCHESTRATOR_TASK_QUEUE": house.task_queue,
        "ORCHESTRATOR_PACKAGES": "tests.cast,tests.external.payments,tests.external.orchestrators",
        "ORCHESTRATOR_RECOVERY_INTERVAL": "0",
        PORT_VARIABLE: str(service.port),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "worker.py",
        "--no-supervisor",
        env={**usual, **own},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_a_payment_is_charged_once(house: House, service: Supervisor) -> None:
    [saga] = await house.bus.publish(PaymentRequested(card="visa", amount=10))

    outcome = await saga.outcome()

    assert outcome.phase is Phase.COMPLETED
    assert totals(service) == (1, 0)
    assert await coins(house) == 90


async def test_a_worker_killed_while_the_call_is_in_flight_charges_once(
    empty_house: House, service: Supervisor
) -> None:
    """The charge has been made, and the worker dies before the reply arrives."""
    async with worker_process(empty_house, service):
        [saga] = await empty_house.bus.publish(PaymentRequested(card="visa charges:late", amount=10))
        await until_charged(service)

    async with empty_house.another_worker():
        outcome = await saga.outcome()

    assert outcome.phase is Phase.COMPLETED
    assert [charge["requests"] for charge in service.entries("charges")] == [1]


async def test_a_service_that_is_down_and_comes_back_charges_once(house: House, service: Supervisor) -> None:
    asked = asyncio.Event()

    async def ask() -> None:
        asked.set()

    Wire.before["find_charge"] = ask
    await service.down()
    [saga] = await house.bus.publish(PaymentRequested(card="visa", amount=10))
    await asked.wait()
    await service.up()
    outcome = await saga.outcome()

    assert outcome.phase is Phase.COMPLETED
    assert totals(service) == (1, 0)


async def test_a_charge_that_misses_its_deadline_is_barred_once_the_service_is_reachable(
    house: House, service: Supervisor
) -> None:
    await service.down()
    [saga] = await house.bus.publish(PaymentRequested(card="visa", amount=10, soon=True))
    await until_phase(house, "undoing")
    unknown = [step.state for step in await house.steps()]
    await service.up()

    outcome = await saga.outcome()

    assert unknown == ["done", "attempting"]
    assert (outcome.phase, outcome.error_code) == (Phase.FAILED, "operation.failed")
    assert [step.state for step in await house.steps()] == ["undone", "barred"]
    assert totals(service) == (0, 0)
    assert await coins(house) == 100


async def test_a_charge_whose_replies_are_lost_until_its_deadline_is_refunded_once(
    house: House, service: Supervisor
) -> None:
    Wire.before["find_charge_soon"] = breaks(3)
    [saga] = await house.bus.publish(PaymentRequested(card="visa charges:lose-always", amount=10, soon=True))

    outcome = await saga.outcome()

    # The verification may have found the charge before the deadline; then the saga completes.
    assert totals(service) == ((1, 0) if outcome.phase is Phase.COMPLETED else (1, 1))
    assert await coins(house) == (90 if outcome.phase is Phase.COMPLETED else 100)


async def test_a_cancel_while_the_reply_is_in_flight_refunds_once(house: House, service: Supervisor) -> None:
    [saga] = await house.bus.publish(PaymentRequested(card="visa charges:late", amount=10))
    await until_charged(service)
    await house.client.get_workflow_handle(saga.workflow_id).cancel()

    outcome = await saga.outcome()

    assert outcome.phase is Phase.CANCELLED
    assert totals(service) == (1, 1)
    assert await coins(house) == 100


async def test_a_cancelled_charge_that_arrives_after_the_end_is_found_and_refunded_once(
    house: House, service: Supervisor
) -> None:
    """The request is in flight for longer than its time limit, so its sender no longer waits for it."""
    event_id = new_id()
    [saga] = await house.bus.publish(PaymentRequested(card="visa charges:slow", amount=10), event_id=event_id)

    async def attempting() -> bool:
        return [step.state for step in await house.steps()] == ["done", "attempting"]

    await eventually(attempting, "the charge is in flight")
    await house.client.get_workflow_handle(saga.workflow_id).cancel()
    outcome = await saga.outcome()
    assert totals(service) == (0, 0)

    await service.open_gate()
    await until_charged(service)
    now = datetime.now(UTC)
    soon = await orphaned_effects(house.database, now=now)
    later = await orphaned_effects(house.database, now=now + timedelta(hours=1))
    undone = [await undo_orphan(house.database, house.catalog, effect) for effect in later]

    assert outcome.phase is Phase.CANCELLED
    assert (len(soon), undone) == (0, [True])
    assert totals(service) == (1, 1)
    assert [step.state for step in await house.steps()] == ["undone", "undone"]
    assert await orphaned_effects(house.database, now=now + timedelta(hours=1)) == []


async def test_a_terminated_payment_resumes_when_its_event_is_published_again(
    house: House, service: Supervisor
) -> None:
    event_id, payment = new_id(), PaymentRequested(card="visa charges:late", amount=10)
    [saga] = await house.bus.publish(payment, event_id=event_id)
    await until_charged(service)
    handle = house.client.get_workflow_handle(saga.workflow_id)
    await handle.terminate()
    assert (await handle.describe()).status is WorkflowExecutionStatus.TERMINATED

    [again] = await house.bus.publish(payment, event_id=event_id)
    outcome = await again.outcome()

    assert outcome.phase is Phase.COMPLETED
    assert totals(service) == (1, 0)


async def test_a_message_past_the_pivot_is_retried_until_it_is_sent_with_the_full_time_limit(
    house: House, service: Supervisor
) -> None:
    Wire.before["send_message"] = breaks(4)
    [saga] = await house.bus.publish(ParcelRequested(card="visa", amount=10))

    outcome = await saga.outcome()

    assert outcome.phase is Phase.COMPLETED
    assert (service.done("parcels"), service.done("messages")) == (1, 1)
    limits = await attempt_limits(house.client, saga.workflow_id)
    assert limits["payments.send_message"] == limits["payments.send_parcel"]


async def test_a_cancel_while_a_parcel_is_sent_does_not_stop_it(house: House, service: Supervisor) -> None:
    [saga] = await house.bus.publish(ParcelRequested(card="visa parcels:late", amount=10))

    async def sent() -> bool:
        return service.done("parcels") == 1

    await eventually(sent, "the parcel is sent")
    await house.client.get_workflow_handle(saga.workflow_id).cancel()

    outcome = await saga.outcome()

    assert outcome.phase is Phase.COMPLETED
    assert (service.done("parcels"), service.done("messages")) == (1, 1)


async def attempt_limits(client: Client, workflow_id: str) -> dict[str, float]:
    """The timeout of one attempt of each regular activity, in seconds."""
    limits: dict[str, float] = {}
    async for event in client.get_workflow_handle(workflow_id).fetch_history_events():
        if event.HasField("activity_task_scheduled_event_attributes"):
            scheduled: Any = event.activity_task_scheduled_event_attributes
            limits[scheduled.activity_type.name] = scheduled.start_to_close_timeout.ToTimedelta().total_seconds()
    return limits
