"""A worker registers as many search attributes as fit into the namespace and reports those that do not."""

import asyncio
from uuid import uuid4

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, RemoveSearchAttributesRequest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from orchestrator import Unreachable
from orchestrator.client import connect_temporal
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.worker.search_attributes import ensure_search_attributes
from orchestrator.workflow.search_attributes import SAGA_STATUS
from tests.cast_events import CoinsMoveRequested
from tests.house import CATALOG, eventually, open_house

KEYWORD = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD


async def new_namespace(client: Client, **attributes: IndexedValueType.ValueType) -> Client:
    """Create a namespace with these search attributes; returns a client for it."""
    name = f"crowded-{uuid4()}"
    request = RegisterNamespaceRequest(namespace=name)
    request.workflow_execution_retention_period.FromSeconds(86_400)
    await client.workflow_service.register_namespace(request)

    async def added() -> bool:
        try:
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(namespace=name, search_attributes=attributes)
            )
        except RPCError as fault:
            if "already exist" not in fault.message:
                return False
        return True

    await eventually(added, "the namespace is known everywhere")
    return await Client.connect(
        client.service_client.config.target_host, namespace=name, data_converter=client.data_converter
    )


@pytest.mark.parametrize("kind", ["sqlite"])
async def test_sagas_complete_with_the_search_attributes_that_fit(client: Client, database: Database) -> None:
    here = await new_namespace(client, **{f"Theirs{number}": KEYWORD for number in range(9)})

    warning = await ensure_search_attributes(here)
    async with open_house(here, database, CATALOG, task_queue=f"crowded-{uuid4()}") as house:
        [saga] = await house.bus.publish(CoinsMoveRequested(source="a", target="b", coins=1))
        async with asyncio.timeout(60):
            await saga.result()
        described = await here.get_workflow_handle(saga.workflow_id).describe()

    assert warning is not None
    assert "ErrorCode, EventType, EventId cannot be registered" in warning
    assert "more than 10 search attribute" in warning
    assert described.typed_search_attributes.get(SAGA_STATUS) == "completed"


async def test_without_room_for_the_saga_status_the_worker_names_a_remedy_that_works(client: Client) -> None:
    here = await new_namespace(client, **{f"Theirs{number}": KEYWORD for number in range(10)})

    with pytest.raises(Unreachable, match="Recovery cannot work without SagaStatus") as refused:
        await ensure_search_attributes(here)
    assert "temporal operator search-attribute remove --namespace" in str(refused.value)

    unused = [f"Theirs{number}" for number in range(4)]
    await here.operator_service.remove_search_attributes(
        RemoveSearchAttributesRequest(namespace=here.namespace, search_attributes=unused)
    )
    assert await ensure_search_attributes(here) is None


async def test_a_search_attribute_of_another_type_is_not_used(client: Client) -> None:
    here = await new_namespace(client, EventId=IndexedValueType.INDEXED_VALUE_TYPE_INT)

    warning = await ensure_search_attributes(here)

    assert warning is not None
    assert "EventId cannot be registered" in warning
    assert "EventId exists with a type other than Keyword" in warning


async def test_a_missing_namespace_is_reported_with_the_setting_to_change(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", client.service_client.config.target_host)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "nowhere")

    with pytest.raises(Unreachable, match=r"has no namespace 'nowhere'\. Set TEMPORAL_NAMESPACE"):
        await connect_temporal(Settings())
