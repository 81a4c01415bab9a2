"""Executions on the server: they are started, restarted with an empty history, and located by task queue."""
