"""A step's row: how it is built, how it is read, and whether the step it records can be undone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.atomic import ATOMIC, calls_in
from orchestrator.definition.catalog import Catalog
from orchestrator.operation import HOME, Operation, Reversal
from orchestrator.protocol.commands import StepCommand, StepState
from orchestrator.protocol.messages.envelope import canonical, digest
from orchestrator.store.core.schema import saga_step

KINDS_WITH_EFFECT = ("operation", "atomic", "external")
"""The kinds of steps that have something to undo."""


@dataclass(frozen=True, slots=True)
class StepAttempt:
    """One attempt of a step: the driver's command, and the operation that it calls."""

    command: StepCommand
    operation: Operation[..., Any]
    number: int = 1
    """The number of the attempt; 1 is the first."""

    @classmethod
    def of(cls, command: StepCommand, catalog: Catalog, number: int = 1) -> "StepAttempt":
        """Look up the operation that a command calls.

        Raises:
            OrchestratorError: this worker's code has no such operation.
        """
        return cls(command, catalog.called(command.operation, command.arguments), number)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewStep:
    """The columns that identify a step and its call, from which every new row of `saga_step` is built."""

    saga_id: UUID
    number: int
    kind: str
    operation: str
    arguments: str
    """The arguments as canonical JSON."""
    database: str = HOME
    irreversible: bool = False

    @classmethod
    def of(cls, attempt: StepAttempt) -> "NewStep":
        """Describe the call of an attempt."""
        command, operation = attempt.command, attempt.operation
        return cls(
            saga_id=command.saga.id,
            number=command.number,
            kind=operation.kind,
            operation=operation.name,
            arguments=canonical(command.arguments),
            database=operation.database,
            irreversible=operation.reversal is Reversal.IRREVERSIBLE,
        )

    @classmethod
    def copy_of(cls, row: Any) -> "NewStep":
        """Describe the call that an existing row records."""
        return cls(
            saga_id=row.saga_id,
            number=row.number,
            kind=row.kind,
            operation=row.operation,
            arguments=row.arguments,
            database=row.database,
            irreversible=row.irreversible,
        )

    @property
    def digest(self) -> str:
        """The digest by which a later attempt recognises the same call."""
        return digest(f"{self.operation}{self.arguments}")

    def values(self, state: StepState) -> dict[str, Any]:
        """Return the columns of a row in this state, with a new attempt token."""
        return {
            "saga_id": self.saga_id,
            "number": self.number,
            "kind": self.kind,
            "operation": self.operation,
            "database": self.database,
            "arguments": self.arguments,
            "digest": self.digest,
            "irreversible": self.irreversible,
            "attempt_token": uuid4(),
            "state": state.value,
        }


class UndoPredicates:
    """What a step's row says about undoing it; the undo decides by these, and status displays show them."""

    __slots__ = ()
    kind: str
    irreversible: bool
    state: StepState
    database: str

    @property
    def may_have_effect(self) -> bool:
        """Whether the step has an effect, or may have one that is not recorded in this database."""
        is_open = self.state is StepState.ATTEMPTING and (self.kind == "external" or self.database != HOME)
        return self.kind in KINDS_WITH_EFFECT and (self.state is StepState.DONE or is_open)

    @property
    def is_to_undo(self) -> bool:
        """Whether the step can be undone and has, or may have, an effect to undo."""
        return not self.irreversible and self.may_have_effect

    @property
    def is_past_undoing(self) -> bool:
        """Whether the step cannot be undone and is done, or may be done at an external service."""
        is_unknown = self.kind == "external" and self.state is StepState.ATTEMPTING
        return self.irreversible and (self.state is StepState.DONE or is_unknown)

    @property
    def is_unsettled(self) -> bool:
        """Whether the step cannot be undone and only its remote database records whether it is done."""
        return self.irreversible and self.database != HOME and self.state is StepState.ATTEMPTING


@dataclass(frozen=True, slots=True)
class RecordedStep(UndoPredicates):
    """The columns of a step's row that a transition of its saga needs."""

    number: int
    kind: str
    operation: str
    arguments: str
    irreversible: bool
    state: StepState
    database: str

    @classmethod
    def of(cls, row: Any) -> "RecordedStep":
        """Read a row that has these columns."""
        return cls(
            number=row.number,
            kind=row.kind,
            operation=row.operation,
            arguments=row.arguments,
            irreversible=row.irreversible,
            state=StepState(row.state),
            database=row.database,
        )


_STEPS = (
    select(saga_step.c.saga_id, *(saga_step.c[name] for name in RecordedStep.__dataclass_fields__))
    .where(saga_step.c.saga_id.in_(bindparam("sagas", expanding=True)))
    .order_by(saga_step.c.saga_id, saga_step.c.number)
)


async def steps_of(connection: AsyncConnection, saga_id: UUID) -> list[RecordedStep]:
    """Return a saga's steps in order.

    Call it only in a statement after the one that locked the saga's row, because that lock waits for open steps and
    only a later statement sees them.
    """
    return (await steps_of_each(connection, [saga_id])).get(saga_id, [])


async def steps_of_each(connection: AsyncConnection, sagas: Sequence[UUID]) -> dict[UUID, list[RecordedStep]]:
    """Return the steps of each saga that has any, in order; the rule of `steps_of` applies."""
    steps: dict[UUID, list[RecordedStep]] = {}
    if sagas:
        for row in await connection.execute(_STEPS, {"sagas": list(sagas)}):
            steps.setdefault(row.saga_id, []).append(RecordedStep.of(row))
    return steps


def describe_call(operation: str, arguments: dict[str, Any]) -> str:
    """Format a call for a person, with its arguments."""
    if operation == ATOMIC.name:
        return f"atomically {', '.join(describe_call(name, call) for name, call in calls_in(arguments))}"
    return f"{operation}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"
