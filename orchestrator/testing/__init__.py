"""Tools for an author's tests. They need no server, and test `handle`, single operations or a whole orchestrator."""

from orchestrator.definition.atomic import Atomically
from orchestrator.testing.bus import RecordingBus, Sent
from orchestrator.testing.conformance.entry_points import conformance, run_conformance
from orchestrator.testing.conformance.report import Report
from orchestrator.testing.example import Equality, Example
from orchestrator.testing.recording import RecordingSaga
from orchestrator.testing.transaction import added_events, step_transaction

__all__ = [
    "Atomically",
    "Equality",
    "Example",
    "RecordingBus",
    "RecordingSaga",
    "Report",
    "Sent",
    "added_events",
    "conformance",
    "run_conformance",
    "step_transaction",
]
