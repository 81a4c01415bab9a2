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
    Reversal.RETRIABLE: "tried until it is done",
    Reversal.IRREVERSIBLE: "cannot be undone",
}


def diagram_of(catalog: Catalog, orchestrator: AnyOrchestrator) -> str:
    """The text of a flowchart, as Mermaid reads it. Steps are those of the event's example."""
    return "\n".join(["flowchart TD", *(f"    {line}" for line in _lines(catalog, orchestrator))])


def _lines(catalog: Catalog, orchestrator: AnyOrchestrator) -> Iterator[str]:
    for number, requested in enumerate(orchestrator.requests, start=1):
        # Each event's own walk; they meet at the end.
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
        undone = [one.undo.name for one in reversed(step) if one.undo is not None]
        if undone:
            yield f'{node} -.-> {prefix}undo{number}["{"<br/>".join(undone)}"]'
            undos.append(f"{prefix}undo{number}")
    if walked.ended:
        yield f'{last} --> {prefix}ended["the walk ends: {_plain(walked.ended)}"]'
        last = f"{prefix}ended"
    yield f'{last} --> completed(["{orchestrator.completed.type_name()}"])'
    back = [*reversed(undos), f'failed(["{orchestrator.failed.type_name()}"])']
    if not undos:
        yield f"{begins} -.-> {back[-1]}"
    for one, other in pairwise(back):
        yield f"{one} -.-> {other}"


def _shape(number: int, step: tuple[Operation[..., Any], ...]) -> str:
    if is_pivot(step[0]):
        return f'{{{{"{number} no way back"}}}}'
    told = [f"{one.name}{f' ({_REMARKS[one.reversal]})' if _REMARKS[one.reversal] else ''}" for one in step]
    joined = "<br/>".join(told)
    return f'["{number} {joined}"]'


def _plain(text: str) -> str:
    return "".join(one if one.isalnum() or one in " ._-:" else " " for one in text)[:100]
