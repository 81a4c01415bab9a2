"""A walk: a run of `handle` over a sample event, without a server, in which each operation returns a sample result.

Every orchestrator is walked twice, with different results where a value is a truth value or one of several choices,
so that both branches of `handle` appear.
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
    """The operations of each step, in order. An atomic step has several."""
    ended: str = ""
    """Why `handle` did not return; empty if it did."""


def walk(catalog: Catalog, orchestrator: AnyOrchestrator, requested: type[DomainEvent]) -> Walk:
    """Return the longest of `walks`. A walk whose `handle` returned is preferred."""
    return max(walks(catalog, orchestrator, requested), key=lambda walk: (not walk.ended, len(walk.steps)))


def walks(catalog: Catalog, orchestrator: AnyOrchestrator, requested: type[DomainEvent]) -> list[Walk]:
    """Walk `handle` twice over the event's example, or over a sample from its schema, with different results."""
    event = sample_event(requested)
    if event is None:
        return [Walk((), f"{requested.type_name()} has no example")]
    samples = map(sample_event, orchestrator.awaited)
    events = [sample for sample in samples if sample is not None]
    return [_walk(catalog, orchestrator, event, events, other=other) for other in (False, True)]


def _walk(
    catalog: Catalog, orchestrator: AnyOrchestrator, event: DomainEvent, events: list[DomainEvent], *, other: bool
) -> Walk:
    answers = {operation: _answer(operation, other) for operation in catalog.operations.values()}
    saga = RecordingSaga(answers, events=events)
    ended = ""
    try:
        asyncio.run(orchestrator().handle(event, saga))
    except Refused as refusal:
        ended = refusal.code
    except Exception as fault:  # the author's code may raise anything when it sees sample results
        ended = f"{type(fault).__name__}: {(str(fault).splitlines() or [''])[0]}"
    return Walk(tuple(_operations(call) for call in saga.calls), ended)


def _operations(call: OperationCall[Any]) -> tuple[Operation[..., Any], ...]:
    return tuple(inner.operation for inner in call.calls) if isinstance(call, Atomically) else (call.operation,)


def _answer(operation: Operation[..., Any], other: bool) -> Callable[[OperationCall[Any]], object]:
    def answer(_: OperationCall[Any]) -> object:
        hint = operation.signature.hints["return"]
        return None if hint is type(None) else sample_value(hint, other=other)

    return answer


def is_pivot(operation: Operation[..., Any]) -> bool:
    """Whether a walk recorded this operation for `saga.pivot()`."""
    return operation is PIVOT
