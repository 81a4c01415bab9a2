"""For an author's tests: `handle` and operations in milliseconds, without a server."""

from orchestrator.testing.recording import RecordingSaga
from orchestrator.testing.transaction import step_transaction

__all__ = ["RecordingSaga", "step_transaction"]
