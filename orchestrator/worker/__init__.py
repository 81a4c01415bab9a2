"""The worker process: activities, and the manager that finds, registers and runs everything."""

from orchestrator.worker.process.manager import Manager

__all__ = ["Manager"]
