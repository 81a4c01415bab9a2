"""The client API: the event bus and its blocking twin, handles to sagas, and listening for events."""

from orchestrator.client.blocking import BlockingEventBus, BlockingListening, BlockingSagaHandle
from orchestrator.client.bus import EventBus
from orchestrator.client.connection import connect_temporal, ui_link
from orchestrator.client.handle import SagaHandle
from orchestrator.client.listening import Listening

__all__ = [
    "BlockingEventBus",
    "BlockingListening",
    "BlockingSagaHandle",
    "EventBus",
    "Listening",
    "SagaHandle",
    "connect_temporal",
    "ui_link",
]
