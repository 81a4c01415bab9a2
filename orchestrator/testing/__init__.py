"""For an author's tests: `handle` and operations in milliseconds, without a server."""

from orchestrator.testing.recording import RecordingSaga

__all__ = ["RecordingSaga"]
