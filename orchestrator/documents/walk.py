"""A walk: `handle` of an orchestrator over an event, with no server, every operation answering with a sample.

Twice, with answers that differ where something may be true or false, or one of several: so that both ways show.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.contracts.schemas import sample_event, sample_value
from orchestrator.definition.atomic import Atomically
from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.errors import Refused
from orchestrator.event import DomainEvent
from orchestrator.operation import PIVOT, Operation, OperationCall
from orchestrator.testing.recording import RecordingSaga


@dataclass(frozen=True, slots=True)
class Walk:
    """What `handle` did with one event."""

    steps: tuple[tuple[Operation[..., Any], ...], ...]
    """In order; several operations where a step is atomic."""
    ended: str = ""
    """Why it did not come to its end; empty if it did."""


def walk(catalog: Catalog, orchestrator: AnyOrchestrator, requested: type[DomainEvent]) -> Walk:
    """The longest of `walks`, one that came to its end if there is any."""
    return max(walks(catalog, orchestrator, requested), key=lambda one: (not one.ended, len(one.steps)))


def walks(catalog: Catalog, orchestrator: AnyOrchestrator, requested: type[DomainEvent]) -> list[Walk]:
    """Walk `handle` over an event's example, or over one made from the event's schema: twice, with other answers."""
    event = sample_event(requested)
    if event is None:
        return [Walk((), f"{requested.type_name()} has no example")]
    events = [one for kind in orchestrator.awaited if (one := sample_event(kind)) is not None]
    return [_walk(catalog, orchestrator, event, events, other=other) for other in (False, True)]


def _walk(
    catalog: Catalog, orchestrator: AnyOrchestrator, event: DomainEvent, events: list[DomainEvent], *, other: bool
) -> Walk:
    saga = RecordingSaga({one: _answer(one, other) for one in catalog.operations.values()}, events=events)
    ended = ""
    try:
        asyncio.run(orchestrator().handle(event, saga))
    except Refused as refusal:
        ended = refusal.code
    except Exception as fault:  # an author's code, which sees made-up answers here
        ended = f"{type(fault).__name__}: {(str(fault).splitlines() or [''])[0]}"
    return Walk(tuple(_operations(call) for call in saga.calls), ended)


def _operations(call: OperationCall[Any]) -> tuple[Operation[..., Any], ...]:
    return tuple(one.operation for one in call.calls) if isinstance(call, Atomically) else (call.operation,)


def _answer(operation: Operation[..., Any], other: bool) -> Callable[[OperationCall[Any]], object]:
    def answer(_: OperationCall[Any]) -> object:
        hint = operation.signature.hints["return"]
        return None if hint is type(None) else sample_value(hint, other=other)

    return answer


def is_pivot(operation: Operation[..., Any]) -> bool:
    """Whether it is `saga.pivot()`."""
    return operation is PIVOT
