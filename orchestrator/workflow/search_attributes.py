"""The search attributes by which executions are found in the Web UI."""

from collections.abc import Iterable
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributePair, SearchAttributeUpdate, TypedSearchAttributes

EVENT_TYPE = SearchAttributeKey.for_keyword("EventType")
EVENT_ID = SearchAttributeKey.for_keyword("EventId")
SAGA_STATUS = SearchAttributeKey.for_keyword("SagaStatus")
"""The saga's status: `running`, `undoing`, `stuck`, `completed`, `failed` or `cancelled`; `rejected` if the execution
received no readable event."""
ERROR_CODE = SearchAttributeKey.for_keyword("ErrorCode")

SEARCH_ATTRIBUTES = (EVENT_TYPE, EVENT_ID, SAGA_STATUS, ERROR_CODE)
_left_out: dict[str, frozenset[str]] = {}
"""For each namespace, the names of attributes that are not registered there and must not be set."""

RUNNING = "running"


def of_event(event_type: str, event_id: str) -> TypedSearchAttributes:
    """Return the search attributes for starting an execution for an event."""
    return TypedSearchAttributes([SearchAttributePair(EVENT_TYPE, event_type), SearchAttributePair(EVENT_ID, event_id)])


class SagaStatus:
    """The search attribute `SagaStatus` of the current execution.

    Each change costs the server a write, so a saga that ends within its first workflow task never shows `running`.
    """

    def __init__(self) -> None:
        self._is_shown = False

    def begin(self, event_type: str, event_id: str) -> None:
        """Set the event's type and id, unless the execution was started with them."""
        info = workflow.info()
        known = info.typed_search_attributes
        is_set = known.get(EVENT_TYPE) == event_type and known.get(EVENT_ID) == event_id
        # A continued run inherits its attributes from the previous run, so they do not show how it was started.
        if info.continued_run_id is not None or not is_set:
            self._is_shown = True
            upsert(EVENT_TYPE.value_set(event_type), EVENT_ID.value_set(event_id), SAGA_STATUS.value_set(RUNNING))

    def show_running(self) -> None:
        """Show `running`. Called if the saga does not end within its first workflow task."""
        if not self._is_shown:
            self.set(RUNNING)

    def set(self, status: str) -> None:
        """Set the status."""
        self._is_shown = True
        upsert(SAGA_STATUS.value_set(status))


def leave_out(namespace: str, names: Iterable[str]) -> None:
    """Stop the executions of this process from setting these attributes, because the server would refuse them.

    `SagaStatus` is never left out. Each upsert sets it, so the commands do not depend on which attributes are left out.
    """
    _left_out[namespace] = frozenset(names)


def upsert(*updates: SearchAttributeUpdate[Any]) -> None:
    """Set search attributes of the current execution, except for those that are not registered."""
    left_out = _left_out.get(workflow.info().namespace, frozenset())
    # The type of the update's value is unknown to pyright.
    workflow.upsert_search_attributes([update for update in updates if update.key.name not in left_out])  # pyright: ignore[reportUnknownMemberType]
