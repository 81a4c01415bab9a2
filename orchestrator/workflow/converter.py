"""The worker's payload converter, which leaves values without a declared type raw.

Temporal's own converter decodes such values as JSON. Invalid JSON would then fail the workflow task forever, so that a
single bad start argument would block its execution. With this converter every message reaches the engine as bytes.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue
from temporalio.contrib.pydantic import PydanticPayloadConverter, pydantic_data_converter

from orchestrator.workflow.failures import BoundedFailureConverter

_CONVERTERS = PydanticPayloadConverter().converters
"""The converters that all payload converters share. Temporal creates a payload converter for each activation, and with
its own converters pydantic would analyze each type again."""


class RawUnlessTyped(PydanticPayloadConverter):
    """Decodes values that have a declared type with pydantic, and leaves other values as raw bytes."""

    def __init__(self) -> None:
        self.converters = _CONVERTERS

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """Decode payloads, or return them raw if there are no type hints."""
        if type_hints is None:
            return [RawValue(payload) for payload in payloads]
        return super().from_payloads(payloads, type_hints)


worker_data_converter = replace(
    pydantic_data_converter,
    payload_converter_class=RawUnlessTyped,
    failure_converter_class=BoundedFailureConverter,
)
"""The data converter of worker processes. Clients use Temporal's `pydantic_data_converter`, with the same payloads."""
