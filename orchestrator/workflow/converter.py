"""The worker's payload converter: a value nobody gave a type for stays raw.

Temporal's own decodes it as JSON and raises on garbage, which fails the workflow task for ever: one bad start argument
wedges its execution. Here whatever anybody sends reaches our code as bytes.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue
from temporalio.contrib.pydantic import PydanticPayloadConverter, pydantic_data_converter

from orchestrator.workflow.failures import BoundedFailureConverter

_CONVERTERS = PydanticPayloadConverter().converters
"""Made once: Temporal makes a converter for each activation, and pydantic then forgot what it knew of each type."""


class RawUnlessTyped(PydanticPayloadConverter):
    """Pydantic for what has a type, raw bytes for what has none."""

    def __init__(self) -> None:
        self.converters = _CONVERTERS

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """Decode payloads; without type hints none is decoded."""
        if type_hints is None:
            return [RawValue(payload) for payload in payloads]
        return super().from_payloads(payloads, type_hints)


worker_data_converter = replace(
    pydantic_data_converter,
    payload_converter_class=RawUnlessTyped,
    failure_converter_class=BoundedFailureConverter,
)
"""For worker processes. Clients use Temporal's `pydantic_data_converter`; on the wire the two are the same."""
