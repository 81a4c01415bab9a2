"""Checks of what an author declared, before a worker starts: every fault at once, each with file and line.

What only several definitions show together (two of one name) is checked here; a single event, operation or orchestrator
in the module named after it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.definition.events import problems_of_event
from orchestrator.definition.operations import problems_of_operation
from orchestrator.definition.orchestrators import problems_of_orchestrator
from orchestrator.errors import Problem
from orchestrator.event import DomainEvent
from orchestrator.operation import Operation, Source
from orchestrator.orchestrator import Orchestrator


def problems_in(
    events: Sequence[type[DomainEvent]],
    operations: Sequence[Operation[..., Any]],
    orchestrators: Sequence[type[Orchestrator[Any, Any, Any]]],
) -> list[Problem]:
    """Every fault of definition, each once, sorted by place."""
    found: set[Problem] = set()
    for event in events:
        found.update(problems_of_event(event))
    for operation in operations:
        found.update(problems_of_operation(operation))
    for orchestrator in orchestrators:
        found.update(problems_of_orchestrator(orchestrator))
    found.update(_events_of_one_type(events))
    found.update(_activities_of_one_name(operations))
    found.update(_orchestrators_of_one_name(orchestrators))
    return sorted(found)


def _events_of_one_type(events: Sequence[type[DomainEvent]]) -> Iterator[Problem]:
    first: dict[str, Source] = {}
    for event in _by_place(events):
        source = Source.of(event)
        other = first.setdefault(event.type_name(), source)
        if other is not source:
            yield source.problem(
                f"{event.__name__} is the event type {event.type_name()}, as is the class in "
                f"{other.problem('').place}; a type is its class's name: rename one"
            )


def _activities_of_one_name(operations: Sequence[Operation[..., Any]]) -> Iterator[Problem]:
    first: dict[str, tuple[Source, Any]] = {}
    for name, source, body in sorted(_activities(operations), key=lambda one: (one[1].file, one[1].line)):
        other, its_body = first.setdefault(name, (source, body))
        if other is source:
            continue
        if its_body is body:
            yield source.problem(
                f"{name} is declared twice; an activity belongs to one operation: write a function for each"
            )
        else:
            yield source.problem(
                f"{name} is also in {other.problem('').place}; an activity is named by the last part of its module "
                "and its function: rename one"
            )


def _activities(operations: Sequence[Operation[..., Any]]) -> Iterator[tuple[str, Source, Any]]:
    for operation in operations:
        yield operation.name, operation.source, operation.signature.body
        for compensation in (operation.undo, *operation.surplus):
            if compensation is not None:
                yield compensation.name, compensation.source, compensation.body


def _orchestrators_of_one_name(orchestrators: Sequence[type[Orchestrator[Any, Any, Any]]]) -> Iterator[Problem]:
    first: dict[str, Source] = {}
    for orchestrator in _by_place(orchestrators):
        source = Source.of(orchestrator)
        other = first.setdefault(orchestrator.__name__, source)
        if other is not source:
            yield source.problem(
                f"{orchestrator.__name__} is also in {other.problem('').place}; a workflow type is its class's name: "
                "rename one"
            )


def _by_place(classes: Sequence[type]) -> list[type[Any]]:
    def place(one: type) -> tuple[str, int]:
        source = Source.of(one)
        return source.file, source.line

    return sorted(classes, key=place)
