"""Arguments for the property: those that an example's saga used, others near to them, and what their types allow."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from pydantic import JsonValue, TypeAdapter, ValidationError

from orchestrator.operation import Operation

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Strategies = Mapping[Operation[..., Any], Mapping[str, Any]]
"""By operation and parameter: the author's own strategy of values for it."""


def arguments_of(
    operation: Operation[..., Any], recorded: Mapping[str, JsonValue], given: Mapping[str, Any]
) -> "SearchStrategy[dict[str, JsonValue]]":
    """Calls of an operation, as JSON. Not all of them are valid: whoever draws one loads it through the signature.

    Args:
        operation: whose parameters.
        recorded: a call that does something, by parameter.
        given: the author's own strategies, by parameter; they are taken alone.
    """
    from hypothesis import strategies as st

    chosen: dict[str, SearchStrategy[JsonValue]] = {}
    for name in operation.signature.parameters:
        hint = operation.signature.hints[name]
        if name in given:
            chosen[name] = given[name].map(_dumped_as(hint))
        elif name in recorded:
            used = recorded[name]
            chosen[name] = st.just(used) | st.just(used) | _near(used) | _of_type(hint)
        else:
            chosen[name] = _of_type(hint)
    return st.fixed_dictionaries(chosen)


def _near(value: JsonValue) -> "SearchStrategy[Any]":
    """Values of the same form that differ a little."""
    from hypothesis import strategies as st

    match value:
        case bool():
            return st.booleans()
        case int():
            reach = 2 * abs(value) + 10
            return st.integers(-reach, reach)
        case str():
            return st.sampled_from([value, value, value, f"{value}x"])
        case list():
            return st.tuples(*(_near(inner) for inner in value)).map(list)
        case dict():
            return st.fixed_dictionaries({name: _near(inner) for name, inner in value.items()})
        case _:
            return st.just(value)


def _of_type(hint: Any) -> "SearchStrategy[Any]":
    """What the type allows, as far as hypothesis can tell; nothing where it cannot."""
    from hypothesis import strategies as st
    from hypothesis.errors import HypothesisException

    dumped = _dumped_as(hint)

    def drawn(draw: Any) -> JsonValue:
        from hypothesis import reject

        try:
            return cast(JsonValue, dumped(draw(st.from_type(hint))))
        except (ValidationError, ValueError, TypeError, HypothesisException):
            return reject()

    return st.composite(drawn)()


def _dumped_as(hint: Any) -> Any:
    adapter: TypeAdapter[Any] = TypeAdapter(hint)

    def dumped(value: Any) -> JsonValue:
        return cast(JsonValue, adapter.dump_python(adapter.validate_python(value), mode="json"))

    return dumped
