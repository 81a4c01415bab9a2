"""Checks of what an author declared, before a worker starts: every fault at once, each with file and line."""

from collections.abc import Sequence
from typing import Any

from orchestrator.errors import Problem
from orchestrator.event import DomainEvent
from orchestrator.operation import Operation
from orchestrator.orchestrator import Orchestrator


def problems_in(
    events: Sequence[type[DomainEvent]],
    operations: Sequence[Operation[..., Any]],
    orchestrators: Sequence[type[Orchestrator[Any, Any, Any]]],
) -> list[Problem]:
    """Every fault of definition."""
    return []
