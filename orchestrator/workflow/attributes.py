"""Search attributes: how executions are found in the Web UI."""

from temporalio.common import SearchAttributeKey

EVENT_TYPE = SearchAttributeKey.for_keyword("EventType")
EVENT_ID = SearchAttributeKey.for_keyword("EventId")
SAGA_STATUS = SearchAttributeKey.for_keyword("SagaStatus")
"""`running`, `undoing`, `stuck`, then `completed`, `failed` or `cancelled`; `rejected` if nothing could be read."""
ERROR_CODE = SearchAttributeKey.for_keyword("ErrorCode")

SEARCH_ATTRIBUTES = (EVENT_TYPE, EVENT_ID, SAGA_STATUS, ERROR_CODE)
