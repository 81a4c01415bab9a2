"""The worker process. Its `Manager` finds, registers and runs all orchestrators and operations of an application."""

from orchestrator.worker.process.manager import Manager

__all__ = ["Manager"]
