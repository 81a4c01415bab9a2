"""Another event of the same type: one value of it changed."""

from collections.abc import Iterator
from typing import Any, TypeVar

from orchestrator.event import DomainEvent
from orchestrator.protocol.envelope import UnreadableEvent, canonical
from orchestrator.protocol.unwrapping import parse

E = TypeVar("E", bound=DomainEvent)


def with_other_content(event: E) -> E | None:
    """A valid event that differs from this one in a value; None if none was found."""
    for changed in _changes(event.model_dump(mode="json")):
        try:
            other = parse(canonical(changed), type(event))
        except UnreadableEvent:
            continue
        if other != event:
            return other
    return None


def _changes(value: Any) -> Iterator[Any]:
    match value:
        case bool():
            yield not value
        case int() | float():
            yield from (value + 1, value - 1, value * 2)
        case str():
            yield from (f"{value}x", value[:-1])
        case list():
            items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
            for place, inner in enumerate(items):
                for changed in _changes(inner):
                    yield [*items[:place], changed, *items[place + 1 :]]
        case dict():
            fields: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
            for name, inner in fields.items():
                for changed in _changes(inner):
                    yield {**fields, name: changed}
        case _:
            return
