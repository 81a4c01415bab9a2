"""The client's door: the event bus, and handles to what it started."""

from orchestrator.client.bus import EventBus
from orchestrator.client.connection import connect_temporal, ui_link
from orchestrator.client.handle import SagaHandle

__all__ = ["EventBus", "SagaHandle", "connect_temporal", "ui_link"]
