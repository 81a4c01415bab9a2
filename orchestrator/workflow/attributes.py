"""Search attributes: how executions are found in the Web UI."""

from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributeUpdate

EVENT_TYPE = SearchAttributeKey.for_keyword("EventType")
EVENT_ID = SearchAttributeKey.for_keyword("EventId")
SAGA_STATUS = SearchAttributeKey.for_keyword("SagaStatus")
"""`running`, `undoing`, `stuck`, then `completed`, `failed` or `cancelled`; `rejected` if nothing could be read."""
ERROR_CODE = SearchAttributeKey.for_keyword("ErrorCode")

SEARCH_ATTRIBUTES = (EVENT_TYPE, EVENT_ID, SAGA_STATUS, ERROR_CODE)


def upsert(*updates: SearchAttributeUpdate[Any]) -> None:
    """Set search attributes of the execution that runs."""
    # Temporal leaves the update's value unknown to pyright.
    workflow.upsert_search_attributes(updates)  # pyright: ignore[reportUnknownMemberType]
