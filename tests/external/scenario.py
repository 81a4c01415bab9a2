"""The scenario of tests without a Temporal server: a database, the payment service, and drivers."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import event, update

from orchestrator.drive.driver import Driver
from orchestrator.drive.steps import StepFailed
from orchestrator.event import DomainEvent
from orchestrator.operation import Reversal
from orchestrator.protocol.commands import (
    BeginUndoCommand,
    Decided,
    Opening,
    Outcome,
    Phase,
    SagaRef,
    StepCommand,
    StepReply,
    UndoCommand,
)
from orchestrator.protocol.messages.envelope import saga_id, wrap
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_step
from orchestrator.store.saga.steps import StoreSteps
from tests.external.orchestrators import PAYMENTS, Payment
from tests.external.supervisor import Supervisor
from tests.house import Holdings, rows

TIME = datetime(2026, 1, 1, tzinfo=UTC)
ATTEMPTS = 3
DEADLINE = timedelta(minutes=5)


class TriedSteps(StoreSteps):
    """Tries a step a few times and then gives up, as the activities in `worker.activities` do."""

    async def run(self, command: StepCommand, deadline: timedelta, *, attempt: int = 1) -> StepReply:
        failed: Exception | None = None
        for number in range(attempt, ATTEMPTS + 1):
            try:
                return await super().run(command, deadline, attempt=number)
            except Exception as fault:
                failed = fault
        operation = self.catalog.operation(command.operation)
        if operation.kind == "external" and operation.reversal is Reversal.IRREVERSIBLE:
            settled = await self.settle(command)
            if settled is not None and not isinstance(settled, Decided):
                return settled
        raise StepFailed(str(failed)) from failed


@dataclass
class PaymentScenario:
    """A payment saga, the database and the payment service."""

    database: Database
    service: Supervisor
    event: DomainEvent
    event_id: str = "one"
    orchestrator: type[Any] = Payment
    steps: StoreSteps = field(init=False)

    def __post_init__(self) -> None:
        self.steps = TriedSteps(self.database, PAYMENTS)

    @property
    def ref(self) -> SagaRef:
        """The saga's reference."""
        name = self.orchestrator.__name__
        return SagaRef(id=saga_id(name, self.event_id), orchestrator=name, event_id=self.event_id)

    @property
    def opening(self) -> Opening:
        """The saga's opening."""
        envelope = wrap(self.event, event_id=self.event_id, source="tests", time=TIME)
        return Opening(saga=self.ref, envelope=envelope.text)

    def driver(self) -> Driver:
        """Another driver of the saga."""
        envelope = wrap(self.event, event_id=self.event_id, source="tests", time=TIME)
        return Driver(self.orchestrator, self.event, envelope, self.steps)

    def driving(self) -> "asyncio.Task[Outcome]":
        """Start another driver of the saga."""
        return asyncio.create_task(self.driver().drive())

    async def cancel(self) -> Outcome:
        """Cancel the saga with another driver."""
        return await self.driver().undo(Phase.CANCELLED, "saga.cancelled", "by a test")

    async def begin_undo(self) -> None:
        """Decide to undo the saga, without running any compensation."""
        await self.steps.begin_undo(
            BeginUndoCommand(
                opening=self.opening, ends_as=Phase.CANCELLED, error_code="saga.cancelled", message="by a test"
            )
        )

    def command(self, operation: str = "payments.charge_card") -> StepCommand:
        """The command of the external step, as a late attempt has it."""
        return StepCommand(
            saga=self.ref,
            number=2,
            operation=operation,
            arguments={"card": getattr(self.event, "card", ""), "amount": getattr(self.event, "amount", 0)},
            event_time=TIME.isoformat(),
        )

    def undo_command(self) -> UndoCommand:
        """The command that undoes the external step."""
        return UndoCommand(saga=self.ref, number=2, operation="payments.charge_card", event_time=TIME.isoformat())

    def late(self) -> "asyncio.Task[StepReply]":
        """Start one attempt of the external step."""
        return asyncio.create_task(StoreSteps(self.database, PAYMENTS).run(self.command(), DEADLINE))

    async def take_coins(self) -> None:
        """Do the step before the external one."""
        arguments = {"name": "a", "coins": getattr(self.event, "amount", 0)}
        command = self.command("cast.take")
        await self.steps.run(
            command.model_copy(update={"number": 1, "arguments": arguments, "opening": self.opening}), DEADLINE
        )

    async def states(self) -> list[str]:
        """The state of each step, in order."""
        return [row.state for row in sorted(await rows(self.database, saga_step), key=lambda row: row.number)]

    async def step(self) -> Any:
        """The row of the external step."""
        [row] = [row for row in await rows(self.database, saga_step) if row.number == 2]
        return row

    async def coins(self) -> int:
        """The coins in box `a`, at first a thousand."""
        return (await Holdings.of(self.database)).boxes["a"]

    @property
    def charged_and_refunded(self) -> tuple[int, int]:
        """The numbers of charges and refunds that the service has made."""
        return self.service.done("charges"), self.service.done("refunds")

    async def age(self) -> None:
        """Set the start of the last attempt to an hour ago."""
        async with self.database.transaction() as connection:
            await connection.execute(update(saga_step).values(attempted_at=datetime.now(UTC) - timedelta(hours=1)))


@contextmanager
def statements(database: Database) -> Generator[list[str]]:
    """Record the first word of each statement, and each commit of a transaction that may have written."""
    recorded: list[str] = []

    def execute(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        recorded.append(statement.split()[0])

    def commit(_connection: Any) -> None:
        recorded.append("COMMIT")

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", execute)
    event.listen(engine, "commit", commit)
    try:
        yield recorded
    finally:
        event.remove(engine, "before_cursor_execute", execute)
        event.remove(engine, "commit", commit)
        while "BEGIN" in recorded:
            recorded.remove("BEGIN")
