"""Converts an operation's arguments and result to JSON and back. It knows neither transactions nor steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NotRequired, get_type_hints

from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from orchestrator.errors import Unrecordable
from orchestrator.event import unstorable
from orchestrator.protocol.messages.envelope import NESTING_LIMIT, canonical
from orchestrator.protocol.messages.validation_errors import describe
from orchestrator.values.round_trip import deeper_than, difference, may_be_deep, may_change


class Signature:
    """Converts an operation's arguments and result to JSON and back. Its adapters are built at first use."""

    def __init__(self, body: Callable[..., Any]) -> None:
        self.body = body

    @cached_property
    def whole(self) -> inspect.Signature:
        """The function's signature, including the transaction."""
        return inspect.signature(self.body)

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parameters by name, without the transaction."""
        return dict(list(self.whole.parameters.items())[1:])

    @cached_property
    def positional(self) -> tuple[str, ...]:
        """The parameters without the transaction, if a call may pass all of them by position, otherwise none."""
        kinds = {parameter.kind for parameter in self.parameters.values()}
        return tuple(self.parameters) if kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD} else ()

    @cached_property
    def hints(self) -> Mapping[str, Any]:
        """The annotations by name, including `return`."""
        return get_type_hints(self.body, include_extras=True)

    @cached_property
    def _defaults(self) -> Mapping[str, Any]:
        return {
            name: parameter.default
            for name, parameter in self.parameters.items()
            if parameter.default is not parameter.empty
        }

    @cached_property
    def _arguments(self) -> TypeAdapter[dict[str, Any]]:
        fields: dict[str, Any] = {
            name: self.hints[name] if parameter.default is parameter.empty else NotRequired[self.hints[name]]
            for name, parameter in self.parameters.items()
        }
        return _shape(name_of_function(self.body), fields)

    @cached_property
    def _result(self) -> TypeAdapter[dict[str, Any]]:
        # A typed dictionary, because it accepts a configuration. Without one, NaN would be recorded as null.
        return _shape(name_of_function(self.body), {"result": self.hints["return"]})

    @cached_property
    def _arguments_may_change(self) -> bool:
        return any(may_change(self.hints[name]) for name in self.parameters)

    @cached_property
    def _result_may_change(self) -> bool:
        return may_change(self.hints["return"])

    @cached_property
    def _may_be_deep(self) -> bool:
        return any(may_be_deep(hint) for name, hint in self.hints.items() if name in (*self.parameters, "return"))

    def build(self) -> None:
        """Build the adapters now, so that a type that pydantic cannot convert is found before a worker starts."""
        _ = self._arguments, self._result

    def dump_arguments(self, arguments: Mapping[str, Any]) -> dict[str, JsonValue]:
        """Return arguments as JSON, including default values.

        Raises:
            pydantic.ValidationError: an argument is not of its declared type.
            ValueError: an argument's text cannot be stored, or it is nested too deep, or it would be read back as
                another value.
        """
        return self._dump(self._arguments, {**self._defaults, **arguments}, may_change=self._arguments_may_change)

    def load_arguments(self, recorded: Mapping[str, JsonValue]) -> dict[str, Any]:
        """Read recorded arguments with the current types.

        Raises:
            pydantic.ValidationError: they do not fit the current types.
        """
        return self._arguments.validate_json(canonical(dict(recorded)), strict=True)

    def dump_result(self, result: Any) -> JsonValue:
        """Return a result as JSON.

        Raises:
            pydantic.ValidationError: it is not of the declared type.
            ValueError: its text cannot be stored, or it is nested too deep, or it would be read back as another value.
        """
        dumped = self._dump(self._result, {"result": result}, may_change=self._result_may_change)
        return dumped["result"]

    def load_result(self, recorded: JsonValue) -> Any:
        """Read a recorded result with the current type.

        Raises:
            pydantic.ValidationError: it does not fit the current type.
        """
        return self._result.validate_json(canonical({"result": recorded}), strict=True)["result"]

    def _dump(
        self, adapter: TypeAdapter[dict[str, Any]], values: dict[str, Any], *, may_change: bool
    ) -> dict[str, JsonValue]:
        """Return values as JSON, after a check that they are read back unchanged."""
        checked = adapter.validate_python(values, strict=True)
        try:
            dumped: dict[str, JsonValue] = adapter.dump_python(checked, mode="json")
        except (ValueError, RecursionError) as fault:
            raise self._unrecordable(f"a value cannot be written as JSON: {fault}") from fault
        for name, value in dumped.items():
            if self._may_be_deep and deeper_than(NESTING_LIMIT, value):
                raise self._unrecordable(f"{name}: the value is nested deeper than {NESTING_LIMIT} levels")
            if reason := unstorable(value):
                raise self._unrecordable(f"{name}: {reason}, which no database column can store")
        if not may_change:
            return dumped
        try:
            back = adapter.validate_json(canonical(dumped), strict=True)
        except ValueError as fault:
            why = describe(fault) if isinstance(fault, ValidationError) else str(fault)
            raise self._unrecordable(f"what is recorded could not be read back: {why}") from fault
        if how := difference(checked, back):
            raise self._unrecordable(f"what is recorded would come back as another value: {how}")
        return dumped

    def _unrecordable(self, why: str) -> Unrecordable:
        return Unrecordable(f"{name_of_function(self.body)}: {why}")


def _shape(name: str, fields: dict[str, Any]) -> TypeAdapter[dict[str, Any]]:
    create: Any = TypedDict  # its fields come from a signature, so a type checker cannot know them
    shape = create(name, fields)
    shape.__pydantic_config__ = ConfigDict(
        strict=True, extra="forbid", arbitrary_types_allowed=False, allow_inf_nan=False
    )
    return TypeAdapter(shape)


def name_of_function(body: Callable[..., Any]) -> str:
    """Return a function's name, or the representation of a callable that has none."""
    return getattr(body, "__name__", repr(body))
