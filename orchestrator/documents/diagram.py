"""A Mermaid diagram of an orchestrator: its event, its steps, how each is undone, and the events that it ends with."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.documents.walk import is_pivot, walk
from orchestrator.event import DomainEvent
from orchestrator.operation import Operation, Reversal

_REMARKS = {
    Reversal.COMPENSATED: "",
    Reversal.NOTHING: "query",
    Reversal.RETRIABLE: "retried until it succeeds",
    Reversal.IRREVERSIBLE: "cannot be undone",
}


def diagram_of(catalog: Catalog, orchestrator: AnyOrchestrator) -> str:
    """Return a Mermaid flowchart. Its steps are those of the walk over the event's example."""
    return "\n".join(["flowchart TD", *(f"    {line}" for line in _lines(catalog, orchestrator))])


def _lines(catalog: Catalog, orchestrator: AnyOrchestrator) -> Iterator[str]:
    for number, requested in enumerate(orchestrator.requests, start=1):
        # Each event has its own walk. All of them lead to the same end.
        yield from _walked(catalog, orchestrator, requested, f"of{number}_" if number > 1 else "")


def _walked(
    catalog: Catalog, orchestrator: AnyOrchestrator, requested: type[DomainEvent], prefix: str
) -> Iterator[str]:
    walked = walk(catalog, orchestrator, requested)
    begins = f"{prefix}begins"
    yield f'{begins}(["{requested.type_name()}"])'
    for number, awaited in enumerate(orchestrator.awaited, start=1):
        yield f'awaited{number}(["{awaited.type_name()}"]) -.-> {begins}'
    last, undos = begins, list[str]()
    for number, step in enumerate(walked.steps, start=1):
        node = f"{prefix}step{number}"
        yield f"{last} --> {node}{_shape(number, step)}"
        last = node
        compensations = [operation.undo.name for operation in reversed(step) if operation.undo is not None]
        if compensations:
            yield f'{node} -.-> {prefix}undo{number}["{"<br/>".join(compensations)}"]'
            undos.append(f"{prefix}undo{number}")
    if walked.ended:
        yield f'{last} --> {prefix}ended["the walk ends: {_plain(walked.ended)}"]'
        last = f"{prefix}ended"
    yield f'{last} --> completed(["{orchestrator.completed.type_name()}"])'
    back = [*reversed(undos), f'failed(["{orchestrator.failed.type_name()}"])']
    if not undos:
        yield f"{begins} -.-> {back[-1]}"
    for node, following in pairwise(back):
        yield f"{node} -.-> {following}"


def _shape(number: int, step: tuple[Operation[..., Any], ...]) -> str:
    if is_pivot(step[0]):
        return f'{{{{"{number} pivot"}}}}'
    joined = "<br/>".join(map(_label, step))
    return f'["{number} {joined}"]'


def _label(operation: Operation[..., Any]) -> str:
    remark = _REMARKS[operation.reversal]
    return f"{operation.name} ({remark})" if remark else operation.name


def _plain(text: str) -> str:
    return "".join(character if character.isalnum() or character in " ._-:" else " " for character in text)[:100]
