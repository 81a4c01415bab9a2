"""The client's door: the event bus, and handles to what it started."""

from orchestrator.client.bus import EventBus
from orchestrator.client.connection import connect_temporal, ui_link
from orchestrator.client.handle import SagaHandle
from orchestrator.client.listening import Listening

__all__ = ["EventBus", "Listening", "SagaHandle", "connect_temporal", "ui_link"]
