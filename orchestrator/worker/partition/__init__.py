"""Waves: how a worker process drives the sagas of a partition."""
