"""Reading a clock or random numbers in `handle` fails the workflow task, and the saga waits for a fix."""

from collections.abc import AsyncGenerator
from uuid import uuid4

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.converter import WorkflowSerializationContext

from orchestrator.definition.catalog import Catalog
from orchestrator.event import DomainEvent
from orchestrator.store.core.database import Database
from orchestrator.workflow.converter import worker_data_converter
from tests import cast
from tests.house import House, eventually, open_house
from tests.misbehaving import Clock, Dice
from tests.misbehaving_events import ClockRequested, DiceRequested

MISBEHAVING = Catalog.of(orchestrators=[Clock, Dice], operations=[cast.take])


@pytest.fixture
async def careless(database: Database, client: Client) -> AsyncGenerator[House]:
    """A running application whose orchestrators break the rules."""
    async with open_house(client, database, MISBEHAVING, task_queue=f"careless-{uuid4()}") as opened:
        yield opened


@pytest.mark.parametrize(("event", "name"), [(ClockRequested(), "datetime.datetime.now"), (DiceRequested(), "random")])
async def test_a_clock_or_randomness_in_handle_is_refused_and_named(
    careless: House, event: DomainEvent, name: str
) -> None:
    [saga] = await careless.bus.publish(event)
    handle = careless.client.get_workflow_handle(saga.workflow_id)
    failures: list[str] = []

    async def task_failed() -> bool:
        history = await handle.fetch_history()
        failures[:] = [
            event.workflow_task_failed_event_attributes.failure.message
            for event in history.events
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED
        ]
        return bool(failures)

    await eventually(task_failed, "the workflow task fails")

    assert name in failures[0]
    assert await careless.sagas() == []
    assert cast.Script.runs == []
    await handle.terminate()


def test_the_data_converter_uses_nothing_that_needs_the_execution_of_a_payload() -> None:
    """`PlainPayloadsRunner` leaves out the context that only these features need."""
    assert worker_data_converter.payload_codec is None
    assert worker_data_converter.external_storage is None
    assert worker_data_converter.with_context(WorkflowSerializationContext("default", "an-id")) is worker_data_converter
