"""The property: do, then undo, changes nothing, whatever the operation is called with."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar
from uuid import uuid5

from pydantic import JsonValue, ValidationError

from orchestrator.errors import Refused
from orchestrator.operation import Operation
from orchestrator.store.core.misuse_guard import guarded
from orchestrator.testing.conformance.arguments import arguments_of
from orchestrator.testing.conformance.checks import unlike
from orchestrator.testing.conformance.databases import Rows
from orchestrator.testing.conformance.faults import NotApplicable, fault, is_undone, was_done
from orchestrator.testing.conformance.injection import Gone
from orchestrator.testing.conformance.scenario import EVENT_ID, Stage, Wrong
from orchestrator.testing.conformance.state import State
from orchestrator.testing.example import EVENT_TIME
from orchestrator.transaction import Transaction

R = TypeVar("R")

NO_HYPOTHESIS = "no hypothesis here: install temporal-saga-orchestrator[testing]"


@fault(
    "do, then undo",
    "hypothesis calls the operation with many arguments, each followed by its compensation: nothing changes",
    is_undone,
    was_done,
)
async def do_then_undo(stage: Stage) -> None:
    """In the state that the saga's earlier steps leave. A refused call changes nothing, but some must do something."""
    if stage.step is None or stage.step.kind != "operation":
        raise NotApplicable("the property is of single operations of the database")
    try:
        import hypothesis as _  # noqa: F401
    except ImportError:
        raise NotApplicable(NO_HYPOTHESIS) from None
    gone = stage.injection()
    gone.raises(f"before {stage.here}", Gone())
    await stage.dies(gone)
    operation = stage.catalog.operations[stage.step.operation]
    trials = _Trials(stage, operation, await stage.ground.rows(), await stage.ground.state())

    await asyncio.to_thread(trials.run, stage.step.arguments)

    stage.must(trials.done, f"no call of {operation.name} did anything: {dict(trials.refused)}")
    await stage.drive()


class _Trials:
    """Calls of one operation, each with its undoing, from hypothesis's thread on the test's loop."""

    def __init__(self, stage: Stage, operation: Operation[..., Any], rows: Rows, before: State) -> None:
        self._stage = stage
        self._operation = operation
        self._rows = rows
        self._before = before
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self.done = 0
        self.refused: Counter[str] = Counter()

    def run(self, recorded: dict[str, JsonValue]) -> None:
        """Try the recorded call, and many others.

        Raises:
            Wrong: something was not as before; told of the smallest call that shows it.
        """
        from hypothesis import HealthCheck, Phase, Verbosity, example, given, settings

        own = self._stage.strategies.get(self._operation.name, {})

        # Derandomised: a cell that fails fails again. No examples are stored beside an author's tests.
        @settings(
            max_examples=self._stage.property_examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
            phases=(Phase.explicit, Phase.generate, Phase.shrink),
            report_multiple_bugs=False,
            print_blob=False,
            verbosity=Verbosity.quiet,
        )
        @given(arguments=arguments_of(self._operation, recorded, own))
        @example(arguments=recorded)
        def trial(arguments: dict[str, JsonValue]) -> None:
            from hypothesis import reject

            try:
                self._operation.signature.load_arguments(arguments)
            except (ValidationError, ValueError):
                reject()
            self._await(self._trial(arguments))

        trial()

    def _await(self, work: Coroutine[Any, Any, R]) -> R:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _trial(self, arguments: dict[str, JsonValue]) -> None:
        self._number += 1
        shown = f"{self._operation.name}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"
        try:
            result = await self._do(arguments)
        except Exception as fault:
            # Whatever it is, its transaction is rolled back: there is nothing to undo.
            self.refused[fault.code if isinstance(fault, Refused) else type(fault).__name__] += 1
        else:
            self.done += 1
            try:
                await self._undo(arguments, result)
            except Exception as fault:
                await self._stage.ground.write(self._rows)
                raise Wrong([f"{shown}: its compensation raised {type(fault).__name__}: {fault}"]) from None
        if differing := unlike(self._before, await self._stage.ground.state()):
            await self._stage.ground.write(self._rows)
            raise Wrong([f"{shown}, and then its compensation, leave the state changed", *differing])

    async def _do(self, arguments: dict[str, JsonValue]) -> JsonValue:
        signature = self._operation.signature
        async with self._stage.databases.named(self._operation.database).transaction() as connection:
            tx = self._transaction(connection, 1)
            async with guarded(connection, "operation"):
                returned = await self._operation.body(tx, **signature.load_arguments(arguments))
                await tx.flush()
            return signature.dump_result(returned)

    async def _undo(self, arguments: dict[str, JsonValue], result: JsonValue) -> None:
        async with self._stage.databases.named(self._operation.database).transaction() as connection:
            tx = self._transaction(connection, -1)
            async with guarded(connection, "operation"):
                await self._operation.compensate(tx, arguments, result)
                await tx.flush()

    def _transaction(self, connection: Any, step: int) -> Transaction:
        saga = uuid5(self._stage.saga_id, f"trial/{self._number}")
        return Transaction(connection, saga=saga, step=step, event_id=EVENT_ID, event_time=EVENT_TIME)
