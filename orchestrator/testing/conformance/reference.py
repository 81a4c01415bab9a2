"""The reference: what one clean run of an example does and leaves, which every cell is compared with."""

import json
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from orchestrator.definition.atomic import names_in
from orchestrator.definition.catalog import Catalog
from orchestrator.external import ExternalOperation
from orchestrator.operation import Reversal
from orchestrator.protocol.commands import Outcome
from orchestrator.testing.conformance.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedStep:
    """One step of the clean run."""

    number: int
    operation: str
    kind: str
    """As recorded: operation, query, atomic, external, sleep, wait or pivot."""
    reversal: Reversal | None
    """None: it runs no operation."""
    arguments: dict[str, JsonValue]
    is_verified: bool = False
    """An external operation that can be asked whether it happened."""

    @classmethod
    def of(cls, row: Any, catalog: Catalog) -> "PlayedStep":
        """From a step's row."""
        arguments: dict[str, JsonValue] = json.loads(row.arguments)
        runs = all(name in catalog.operations for name in names_in(row.operation, arguments))
        operation = catalog.called(row.operation, arguments) if runs else None
        return cls(
            number=row.number,
            operation=row.operation,
            kind=row.kind,
            reversal=Reversal.IRREVERSIBLE if row.irreversible else operation.reversal if operation else None,
            is_verified=isinstance(operation, ExternalOperation) and operation.verify is not None,
            arguments=arguments,
        )

    @property
    def is_final(self) -> bool:
        """Whether the saga cannot be undone any more once this is done."""
        return self.reversal is Reversal.IRREVERSIBLE


@dataclass(kw_only=True)
class Reference:
    """A clean run.

    Attributes:
        before: the state that the event came into.
        after: the state that its saga left.
        steps: in order.
        outcome: how it ended: completed, or failed where the example is of a refusal.
        by_other: the state that the other saga alone leaves.
        by_both: the states that the two leave, one after the other, either first.
    """

    before: State
    after: State
    steps: tuple[PlayedStep, ...]
    outcome: Outcome
    by_other: State | None = None
    by_both: tuple[State, ...] = field(default=())

    def pivot_before(self, number: int) -> PlayedStep | None:
        """The first step that cannot be undone, if it comes before this one."""
        return next((step for step in self.steps if step.is_final and step.number < number), None)
