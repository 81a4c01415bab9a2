"""Checks an author's definitions before a worker starts, and reports all faults together, with file and line.

This module finds definitions that share a name. The other modules of this package check a single event, operation or
orchestrator.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.definition.events import problems_of_event
from orchestrator.definition.operations import problems_of_operation
from orchestrator.definition.orchestrators import problems_of_orchestrator
from orchestrator.definition.source import Source
from orchestrator.errors import Problem
from orchestrator.event import DomainEvent
from orchestrator.operation import Operation
from orchestrator.orchestrator import Orchestrator


def problems_in(
    events: Sequence[type[DomainEvent]],
    operations: Sequence[Operation[..., Any]],
    orchestrators: Sequence[type[Orchestrator[Any, Any, Any]]],
) -> list[Problem]:
    """Return every fault, without duplicates, sorted by file and line."""
    problems: set[Problem] = set()
    for event in events:
        problems.update(problems_of_event(event))
    for operation in operations:
        problems.update(problems_of_operation(operation))
    for orchestrator in orchestrators:
        problems.update(problems_of_orchestrator(orchestrator))
    problems.update(_duplicate_event_types(events))
    problems.update(_duplicate_activities(operations))
    problems.update(_duplicate_orchestrators(orchestrators))
    return sorted(problems)


def _duplicate_event_types(events: Sequence[type[DomainEvent]]) -> Iterator[Problem]:
    first: dict[str, Source] = {}
    for event in _sorted_by_source(events):
        source = Source.of(event)
        other = first.setdefault(event.type_name(), source)
        if other is not source:
            yield source.problem(
                f"{event.__name__} is the event type {event.type_name()}, as is the class in "
                f"{other}. An event's type is its class's name: rename one of them"
            )


def _duplicate_activities(operations: Sequence[Operation[..., Any]]) -> Iterator[Problem]:
    first: dict[str, tuple[Source, Any]] = {}
    activities = sorted(_activities(operations), key=lambda activity: (activity[1].file, activity[1].line))
    for name, source, body in activities:
        other, its_body = first.setdefault(name, (source, body))
        if other is source:
            continue
        if its_body is body:
            yield source.problem(
                f"{name} is declared twice; an activity belongs to one operation: write one function for each operation"
            )
        else:
            yield source.problem(
                f"{name} is also in {other}. An activity is named after the last part of its module "
                "and its function: rename one of them"
            )


def _activities(operations: Sequence[Operation[..., Any]]) -> Iterator[tuple[str, Source, Any]]:
    for operation in operations:
        yield operation.name, operation.source, operation.signature.body
        for compensation in (operation.undo, *operation.surplus):
            if compensation is not None:
                yield compensation.name, compensation.source, compensation.body


def _duplicate_orchestrators(orchestrators: Sequence[type[Orchestrator[Any, Any, Any]]]) -> Iterator[Problem]:
    first: dict[str, Source] = {}
    for orchestrator in _sorted_by_source(orchestrators):
        source = Source.of(orchestrator)
        other = first.setdefault(orchestrator.__name__, source)
        if other is not source:
            yield source.problem(
                f"{orchestrator.__name__} is also in {other}. A workflow type is its class's name: rename one of them"
            )


def _sorted_by_source(classes: Sequence[type]) -> list[type[Any]]:
    def file_and_line(definition: type) -> tuple[str, int]:
        source = Source.of(definition)
        return source.file, source.line

    return sorted(classes, key=file_and_line)
