"""What goes wrong in a running saga, at which step, and where: each test says it by the step's name.

The worker runs in the test's process, so the operations it runs are those the test sees: they are wrapped here, and
so is the engine's port to the database, for what goes wrong before a transaction begins or after it is committed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
from pydantic import JsonValue
from temporalio.common import RetryPolicy

from orchestrator import Refused, Transaction
from orchestrator.definition.catalog import Catalog
from orchestrator.operation import Operation
from orchestrator.protocol import names
from orchestrator.protocol.commands import (
    BeginUndoCommand,
    BeginUndoReply,
    FinishCommand,
    FinishReply,
    StepCommand,
    StepReply,
    UndoCommand,
    UndoReply,
)
from orchestrator.store.saga.steps import StoreSteps

Act = Callable[[], Awaitable[None]]


def refuses(code: str) -> Act:
    """Says no."""

    async def act() -> None:
        raise Refused(code, f"refused by the test with {code}")

    return act


def fails(times: int | None = None) -> Act:
    """Raises an error that is no refusal: `times` times, or always."""
    left = times

    async def act() -> None:
        nonlocal left
        if left is None:
            raise RuntimeError("the test fails it for good")
        if left > 0:
            left -= 1
            raise RuntimeError("the test fails it for now")

    return act


class Gate:
    """A point at which an attempt waits, in no transaction, until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.opened.wait()


class Faults:
    """Each is set by name: of an operation, of a compensation, or of an engine's activity (`names.FINISH`).

    Attributes:
        before: happens before the attempt's transaction begins.
        inside: happens in the transaction, the effect written and not committed; for operations and compensations.
        after: happens when the transaction is committed and its reply not yet given.
        runs: operations and compensations whose effect was written, in order, attempts that failed among them.
    """

    def __init__(self, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before: dict[str, Act] = {}
        self.inside: dict[str, Act] = {}
        self.after: dict[str, Act] = {}
        self.runs: list[str] = []
        self._catalog = catalog
        self._monkeypatch = monkeypatch
        for operation in catalog.operations.values():
            self._wrap(operation)
        self._wrap_port()
        # A test need not wait as long between two attempts as the world does.
        for policy in ("_STEP_RETRIES", "_ENDLESS_RETRIES"):
            at_once = RetryPolicy(initial_interval=timedelta(milliseconds=10), backoff_coefficient=1.0)
            monkeypatch.setattr(f"orchestrator.workflow.steps.{policy}", at_once)

    def give_up_soon(self) -> None:
        """Every step fails for good with its third attempt."""
        for operation in self._catalog.operations.values():
            self._monkeypatch.setattr(operation, "deadline", timedelta(microseconds=1))

    def _wrap(self, operation: Operation[..., Any]) -> None:
        body, compensate, undo = operation.body, operation.compensate, operation.undo

        async def played_body(tx: Transaction, /, **arguments: Any) -> Any:
            result = await body(tx, **arguments)
            await self._inside(operation.name, tx)
            return result

        async def played_compensate(tx: Transaction, arguments: Mapping[str, JsonValue], result: JsonValue) -> None:
            await compensate(tx, arguments, result)
            await self._inside(undo.name if undo else "", tx)

        self._monkeypatch.setattr(operation, "body", played_body)
        self._monkeypatch.setattr(operation, "compensate", played_compensate)

    async def _inside(self, name: str, tx: Transaction) -> None:
        await tx.flush()
        self.runs.append(name)
        await _play(self.inside, name)

    def _wrap_port(self) -> None:
        run, undo, turn, finish = StoreSteps.run, StoreSteps.undo, StoreSteps.begin_undo, StoreSteps.finish

        async def played_run(
            steps: StoreSteps, command: StepCommand, deadline: timedelta, *, attempt: int = 1
        ) -> StepReply:
            await _play(self.before, command.operation)
            reply = await run(steps, command, deadline, attempt=attempt)
            await _play(self.after, command.operation)
            return reply

        async def played_undo(steps: StoreSteps, command: UndoCommand, compensation: str) -> UndoReply:
            await _play(self.before, compensation)
            reply = await undo(steps, command, compensation)
            await _play(self.after, compensation)
            return reply

        async def played_turn(steps: StoreSteps, command: BeginUndoCommand) -> BeginUndoReply:
            await _play(self.before, names.BEGIN_UNDO)
            reply = await turn(steps, command)
            await _play(self.after, names.BEGIN_UNDO)
            return reply

        async def played_finish(steps: StoreSteps, command: FinishCommand) -> FinishReply:
            await _play(self.before, names.FINISH)
            reply = await finish(steps, command)
            await _play(self.after, names.FINISH)
            return reply

        for name, played in (
            ("run", played_run),
            ("undo", played_undo),
            ("begin_undo", played_turn),
            ("finish", played_finish),
        ):
            self._monkeypatch.setattr(StoreSteps, name, played)


async def _play(acts: Mapping[str, Act], name: str) -> None:
    if name in acts:
        await acts[name]()
