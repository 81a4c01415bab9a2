"""Parking: an event of a newer version than this worker knows waits in its execution for a worker that knows it."""

from orchestrator.errors import OrchestratorError


class EventParked(OrchestratorError):
    """The execution has an event that only a newer worker can read; nothing is lost, and nothing is undone.

    It fails the workflow task, and so is no part of the history, which a newer worker could not follow. The server
    hands the task out again and again, until a worker takes it that knows the version.
    """
