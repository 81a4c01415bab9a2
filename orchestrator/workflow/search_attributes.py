"""Search attributes: how executions are found in the Web UI."""

from collections.abc import Iterable
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributePair, SearchAttributeUpdate, TypedSearchAttributes

EVENT_TYPE = SearchAttributeKey.for_keyword("EventType")
EVENT_ID = SearchAttributeKey.for_keyword("EventId")
SAGA_STATUS = SearchAttributeKey.for_keyword("SagaStatus")
"""`running`, `undoing`, `stuck`, then `completed`, `failed` or `cancelled`; `rejected` if nothing could be read."""
ERROR_CODE = SearchAttributeKey.for_keyword("ErrorCode")

SEARCH_ATTRIBUTES = (EVENT_TYPE, EVENT_ID, SAGA_STATUS, ERROR_CODE)
_left_out: dict[str, frozenset[str]] = {}
"""By namespace: names of attributes that are not registered there, and that no execution sets."""

RUNNING = "running"


def of_event(event_type: str, event_id: str) -> TypedSearchAttributes:
    """What whoever starts an execution for an event gives it."""
    return TypedSearchAttributes([SearchAttributePair(EVENT_TYPE, event_type), SearchAttributePair(EVENT_ID, event_id)])


class SagaStatus:
    """`SagaStatus` of the execution that runs.

    Each change is a write of the server's, so a saga that is done within its first workflow task shows no `running`.
    """

    def __init__(self) -> None:
        self._is_shown = False

    def begin(self, event_type: str, event_id: str) -> None:
        """Say which event it is, unless whoever started the execution did."""
        info = workflow.info()
        known = info.typed_search_attributes
        is_said = known.get(EVENT_TYPE) == event_type and known.get(EVENT_ID) == event_id
        # A run that follows another one has them from it: nobody who started it says what is in its history.
        if info.continued_run_id is not None or not is_said:
            self._is_shown = True
            upsert(EVENT_TYPE.value_set(event_type), EVENT_ID.value_set(event_id), SAGA_STATUS.value_set(RUNNING))

    def goes_on(self) -> None:
        """It is not done within its first task: it waits for something."""
        if not self._is_shown:
            self.set(RUNNING)

    def set(self, status: str) -> None:
        """Show another status."""
        self._is_shown = True
        upsert(SAGA_STATUS.value_set(status))


def leave_out(namespace: str, names: Iterable[str]) -> None:
    """Have the executions of this process set no attribute of these names: the server would refuse it again and again.

    `SagaStatus` is never among them. Each upsert sets it, so the commands are the same with and without the others.
    """
    _left_out[namespace] = frozenset(names)


def upsert(*updates: SearchAttributeUpdate[Any]) -> None:
    """Set search attributes of the execution that runs, as far as they are registered."""
    left_out = _left_out.get(workflow.info().namespace, frozenset())
    # Temporal leaves the update's value unknown to pyright.
    workflow.upsert_search_attributes([one for one in updates if one.key.name not in left_out])  # pyright: ignore[reportUnknownMemberType]
