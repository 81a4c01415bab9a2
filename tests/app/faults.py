"""Faults in a running saga: a test names the step and the moment at which something goes wrong.

The worker runs in the test's process, so its operations can be wrapped here. The engine's port to the database is
wrapped, too, for faults before a transaction begins and after it is committed.
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
    """An act that refuses."""

    async def act() -> None:
        raise Refused(code, f"refused by the test with {code}")

    return act


def fails(times: int | None = None) -> Act:
    """An act that raises an error other than a refusal, `times` times or always."""
    remaining = times

    async def act() -> None:
        nonlocal remaining
        if remaining is None:
            raise RuntimeError("the test fails it for good")
        if remaining > 0:
            remaining -= 1
            raise RuntimeError("the test fails it for now")

    return act


class Gate:
    """A point outside of any transaction at which an attempt waits until the test lets it continue."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.opened.wait()


class Faults:
    """Faults by name: of an operation, of a compensation, or of an engine's activity (`names.FINISH`).

    Attributes:
        before: acts that run before the attempt's transaction begins.
        inside: acts that run while the effect of an operation or compensation is written but not committed.
        after: acts that run when the transaction is committed but its reply has not been returned.
        runs: operations and compensations whose effect was written, in order, including attempts that failed.
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
        # Shorten the backoff between two attempts.
        for policy in ("_STEP_RETRIES", "_ENDLESS_RETRIES"):
            short = RetryPolicy(initial_interval=timedelta(milliseconds=10), backoff_coefficient=1.0)
            monkeypatch.setattr(f"orchestrator.workflow.steps.{policy}", short)

    def give_up_soon(self) -> None:
        """Give up every step after its third attempt."""
        for operation in self._catalog.operations.values():
            self._monkeypatch.setattr(operation, "deadline", timedelta(microseconds=1))

    def _wrap(self, operation: Operation[..., Any]) -> None:
        body, compensate, undo = operation.body, operation.compensate, operation.undo

        async def wrapped_body(tx: Transaction, /, **arguments: Any) -> Any:
            result = await body(tx, **arguments)
            await self._inside(operation.name, tx)
            return result

        async def wrapped_compensate(tx: Transaction, arguments: Mapping[str, JsonValue], result: JsonValue) -> None:
            await compensate(tx, arguments, result)
            await self._inside(undo.name if undo else "", tx)

        self._monkeypatch.setattr(operation, "body", wrapped_body)
        self._monkeypatch.setattr(operation, "compensate", wrapped_compensate)

    async def _inside(self, name: str, tx: Transaction) -> None:
        await tx.flush()
        self.runs.append(name)
        await _act(self.inside, name)

    def _wrap_port(self) -> None:
        run, undo, begin_undo, finish = StoreSteps.run, StoreSteps.undo, StoreSteps.begin_undo, StoreSteps.finish

        async def wrapped_run(
            steps: StoreSteps, command: StepCommand, deadline: timedelta, *, attempt: int = 1
        ) -> StepReply:
            await _act(self.before, command.operation)
            reply = await run(steps, command, deadline, attempt=attempt)
            await _act(self.after, command.operation)
            return reply

        async def wrapped_undo(steps: StoreSteps, command: UndoCommand, compensation: str) -> UndoReply:
            await _act(self.before, compensation)
            reply = await undo(steps, command, compensation)
            await _act(self.after, compensation)
            return reply

        async def wrapped_begin_undo(steps: StoreSteps, command: BeginUndoCommand) -> BeginUndoReply:
            await _act(self.before, names.BEGIN_UNDO)
            reply = await begin_undo(steps, command)
            await _act(self.after, names.BEGIN_UNDO)
            return reply

        async def wrapped_finish(steps: StoreSteps, command: FinishCommand) -> FinishReply:
            await _act(self.before, names.FINISH)
            reply = await finish(steps, command)
            await _act(self.after, names.FINISH)
            return reply

        for name, wrapped in (
            ("run", wrapped_run),
            ("undo", wrapped_undo),
            ("begin_undo", wrapped_begin_undo),
            ("finish", wrapped_finish),
        ):
            self._monkeypatch.setattr(StoreSteps, name, wrapped)


async def _act(acts: Mapping[str, Act], name: str) -> None:
    if name in acts:
        await acts[name]()
