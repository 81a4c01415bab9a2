"""The property that an operation and its compensation together change nothing, whatever the arguments are."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import uuid5

from pydantic import JsonValue, TypeAdapter, ValidationError

from orchestrator.errors import Refused
from orchestrator.operation import Operation
from orchestrator.store.core.misuse_guard import guarded
from orchestrator.testing.conformance.checks import describe_differences
from orchestrator.testing.conformance.databases import Rows
from orchestrator.testing.conformance.faults import NotApplicable, fault, has_compensation, succeeds_without_fault
from orchestrator.testing.conformance.injection import DriverDied
from orchestrator.testing.conformance.reference import State
from orchestrator.testing.conformance.scenario import EVENT_ID, CheckFailed, Scenario
from orchestrator.testing.example import EVENT_TIME
from orchestrator.transaction import Transaction

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

R = TypeVar("R")

NO_HYPOTHESIS = "hypothesis is not installed: install temporal-saga-orchestrator[testing]"


@fault(
    "do, then undo",
    "hypothesis calls the operation with many arguments, each followed by its compensation: nothing changes",
    has_compensation,
    succeeds_without_fault,
)
async def do_then_undo(scenario: Scenario) -> None:
    """Run the trials in the state that the saga's earlier steps leave. At least one call must not be refused."""
    if scenario.step is None or scenario.step.kind != "operation":
        raise NotApplicable("only single operations on a database are tried")
    try:
        import hypothesis as _  # noqa: F401
    except ImportError:
        raise NotApplicable(NO_HYPOTHESIS) from None
    died = scenario.injection()
    died.raise_at(f"before {scenario.work}", DriverDied())
    await scenario.drive_until_it_dies(died)
    operation = scenario.catalog.operations[scenario.step.operation]
    trials = _Trials(scenario, operation, await scenario.prepared.rows(), await scenario.prepared.state())

    await asyncio.to_thread(trials.run, scenario.step.arguments)

    scenario.require(trials.succeeded, f"no call of {operation.name} succeeded: {dict(trials.refused)}")
    await scenario.drive()


class _Trials:
    """Calls of one operation and its compensation. Hypothesis runs in a thread; the calls run on the test's loop."""

    def __init__(self, scenario: Scenario, operation: Operation[..., Any], rows: Rows, before: State) -> None:
        self._scenario = scenario
        self._operation = operation
        self._rows = rows
        self._before = before
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self.succeeded = 0
        self.refused: Counter[str] = Counter()

    def run(self, recorded: dict[str, JsonValue]) -> None:
        """Try the recorded call and many others.

        Raises:
            CheckFailed: a call was not undone. The message shows the smallest such call.
        """
        from hypothesis import HealthCheck, Phase, Verbosity, example, given, settings

        strategies = self._scenario.strategies.get(self._operation.name, {})

        # Derandomised, so that a failure repeats; without a database, so that no files appear among the author's tests.
        @settings(
            max_examples=self._scenario.property_examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
            phases=(Phase.explicit, Phase.generate, Phase.shrink),
            report_multiple_bugs=False,
            print_blob=False,
            verbosity=Verbosity.quiet,
        )
        @given(arguments=arguments_of(self._operation, recorded, strategies))
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
            # After any error the transaction is rolled back, so there is nothing to undo.
            self.refused[fault.code if isinstance(fault, Refused) else type(fault).__name__] += 1
        else:
            self.succeeded += 1
            try:
                await self._undo(arguments, result)
            except Exception as fault:
                await self._scenario.prepared.replace_rows(self._rows)
                raise CheckFailed([f"{shown}: its compensation raised {type(fault).__name__}: {fault}"]) from None
        if differences := describe_differences(self._before, await self._scenario.prepared.state()):
            await self._scenario.prepared.replace_rows(self._rows)
            raise CheckFailed([f"{shown}, and then its compensation, leave the state changed", *differences])

    async def _do(self, arguments: dict[str, JsonValue]) -> JsonValue:
        signature = self._operation.signature
        async with self._transaction(1) as tx:
            returned = await self._operation.body(tx, **signature.load_arguments(arguments))
            await tx.flush()
            return signature.dump_result(returned)

    async def _undo(self, arguments: dict[str, JsonValue], result: JsonValue) -> None:
        async with self._transaction(-1) as tx:
            await self._operation.compensate(tx, arguments, result)
            await tx.flush()

    @asynccontextmanager
    async def _transaction(self, step: int) -> AsyncGenerator[Transaction]:
        saga = uuid5(self._scenario.saga_id, f"trial/{self._number}")
        database = self._scenario.databases.named(self._operation.database)
        async with database.transaction() as connection, guarded(connection, "operation"):
            yield Transaction(connection, saga=saga, step=step, event_id=EVENT_ID, event_time=EVENT_TIME)


def arguments_of(
    operation: Operation[..., Any], recorded: Mapping[str, JsonValue], strategies: Mapping[str, Any]
) -> "SearchStrategy[dict[str, JsonValue]]":
    """The strategy for an operation's arguments, as JSON. Not all are valid, so the caller loads them first.

    Args:
        operation: the operation to call.
        recorded: the arguments of a call that succeeded.
        strategies: the author's strategies, by parameter. A parameter that has one draws only from it.
    """
    from hypothesis import strategies as st

    chosen: dict[str, SearchStrategy[JsonValue]] = {}
    for name in operation.signature.parameters:
        hint = operation.signature.hints[name]
        if name in strategies:
            chosen[name] = strategies[name].map(_dumped_as(hint))
        elif name in recorded:
            used = recorded[name]
            chosen[name] = st.just(used) | st.just(used) | _near(used) | _of_type(hint)
        else:
            chosen[name] = _of_type(hint)
    return st.fixed_dictionaries(chosen)


def _near(value: JsonValue) -> "SearchStrategy[Any]":
    """Values of the same form, close to this one."""
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
    """Values of the type, or none if hypothesis cannot generate them."""
    from hypothesis import strategies as st
    from hypothesis.errors import HypothesisException

    dumped = _dumped_as(hint)

    def draw_value(draw: Any) -> JsonValue:
        from hypothesis import reject

        try:
            return cast(JsonValue, dumped(draw(st.from_type(hint))))
        except (ValidationError, ValueError, TypeError, HypothesisException):
            return reject()

    return st.composite(draw_value)()


def _dumped_as(hint: Any) -> Any:
    adapter: TypeAdapter[Any] = TypeAdapter(hint)

    def dumped(value: Any) -> JsonValue:
        return cast(JsonValue, adapter.dump_python(adapter.validate_python(value), mode="json"))

    return dumped
