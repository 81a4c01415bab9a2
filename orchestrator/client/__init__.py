"""The client API: the event bus, handles to sagas, and listening for events."""

from orchestrator.client.bus import EventBus
from orchestrator.client.connection import connect_temporal, ui_link
from orchestrator.client.handle import SagaHandle
from orchestrator.client.listening import Listening

__all__ = ["EventBus", "Listening", "SagaHandle", "connect_temporal", "ui_link"]
