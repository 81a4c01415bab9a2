"""The suite: every fault at every step of every example of one orchestrator, on each kind of database."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import MetaData, select
from sqlmodel import SQLModel

from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.drive.driver import Driver
from orchestrator.errors import UsageError
from orchestrator.event import DomainEvent
from orchestrator.protocol.commands import Outcome, Phase
from orchestrator.protocol.messages.envelope import saga_id
from orchestrator.settings import Settings
from orchestrator.store.connections.url import Dialect
from orchestrator.store.core.schema import saga_step
from orchestrator.testing.conformance.checks import describe_differences, nothing_open, one_outcome, state_of_phase
from orchestrator.testing.conformance.databases import (
    KINDS,
    DatabaseSource,
    DatabaseUnavailable,
    PreparedDatabases,
    source_of,
)
from orchestrator.testing.conformance.faults import Fault, NotApplicable
from orchestrator.testing.conformance.injection import InjectedSteps, Injection, instrumented
from orchestrator.testing.conformance.reference import Reference, ReferenceStep, State
from orchestrator.testing.conformance.report import Cell, Result, Verdict
from orchestrator.testing.conformance.runners import FAULTS
from orchestrator.testing.conformance.scenario import (
    EVENT_ID,
    OTHER_EVENT_ID,
    CheckFailed,
    FaultDidNotOccur,
    Scenario,
    envelope_of,
    sent_to,
)
from orchestrator.testing.example import Equality, Example
from orchestrator.testing.slices import WHOLE, Slice

THE_END = "the end"
EVERY_STEP = "every step"
TRIMMED = "trimmed here: `python -m orchestrator.testing` runs them"
_SHOWN_POINTS = 40

Sources = dict[tuple[Dialect, int], DatabaseSource | DatabaseUnavailable]
"""Sources of databases, keyed by kind and by the id of the application's tables. Several suites may share them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The cells of one fault, one example and one database. One pytest test runs one group."""

    example: Example
    fault: Fault
    database: Dialect

    def __str__(self) -> str:
        return f"{self.fault.name}-{self.example}-{self.database}"


@dataclass(kw_only=True)
class Suite:
    """What to try on one orchestrator.

    Attributes:
        orchestrator: the class to test.
        examples: one or more examples.
        catalog: by default whatever the settings' packages declare.
        tables: the application's tables; by default every SQLModel table that is imported.
        equality: what counts as equal when two states are compared.
        databases: the kinds of database to run on.
        strategies: hypothesis strategies for `do, then undo`, by operation and parameter.
        property_examples: how many calls `do, then undo` tries for each step.
        faults: the names of the faults to try; by default all.
    """

    orchestrator: AnyOrchestrator
    examples: Sequence[Example]
    catalog: Catalog | None = None
    tables: MetaData = field(default_factory=lambda: SQLModel.metadata)
    equality: Equality = field(default_factory=Equality)
    databases: Sequence[Dialect] = KINDS
    strategies: Mapping[Any, Mapping[str, Any]] = field(default_factory=dict[Any, Mapping[str, Any]])
    property_examples: int = 25
    faults: Collection[str] | None = None

    def __post_init__(self) -> None:
        if not self.examples:
            raise UsageError(f"{self.orchestrator.__name__} needs an example: conformance(..., Example(event))")
        names = [str(example) for example in self.examples]
        if len(set(names)) < len(names):
            raise UsageError(f"two examples of {names} have the same name: Example(event, name=...)")
        if unknown := set(self.faults or ()) - FAULTS.keys():
            raise UsageError(f"there is no fault {sorted(unknown)}; the faults are {list(FAULTS)}")

    def groups(self) -> list[Group]:
        """The groups to run, in order."""
        chosen = [fault for name, fault in FAULTS.items() if self.faults is None or name in self.faults]
        return [
            Group(example=example, fault=fault, database=database)
            for database in self.databases
            for example in self.examples
            for fault in chosen
        ]

    def find_catalog(self) -> Catalog:
        """The suite's catalog. It is discovered if none was passed.

        Raises:
            UsageError: the orchestrator is not in the catalog.
        """
        if self.catalog is None:
            self.catalog = Catalog.discover(Settings().packages)
        if self.catalog.orchestrators.get(self.orchestrator.__name__) is not self.orchestrator:
            raise UsageError(
                f"{self.orchestrator.__name__} is not in the catalog: put it in one of the packages that "
                "ORCHESTRATOR_PACKAGES or [tool.orchestrator] lists, or pass `catalog=Catalog.of(...)`"
            )
        return self.catalog


class SuiteRunner:
    """Runs groups of one suite. It keeps each example's databases and reference run from one group to the next.

    Args:
        suite: the suite to run.
        sources: the sources of databases. The caller closes them.
    """

    def __init__(self, suite: Suite, sources: Sources) -> None:
        self._suite = suite
        self.sources = sources
        self._instrumented: Catalog | None = None
        self._prepared: dict[tuple[str, Dialect], tuple[PreparedDatabases, Reference]] = {}

    async def run(self, group: Group) -> list[Result]:
        """Run every cell of a group."""
        source = self._source(group.database)
        if isinstance(source, DatabaseUnavailable):
            return [Result(self._cell(group, EVERY_STEP), Verdict.DECLARED, str(source))]
        try:
            prepared, reference = await self._prepare(group, source)
        except (FaultDidNotOccur, CheckFailed) as fault:
            return [Result(self._cell(group, EVERY_STEP), Verdict.FAILED, f"the reference run failed: {fault}")]
        steps: list[ReferenceStep | None] = list(reference.steps) if group.fault.at_steps else []
        if group.fault.at_the_end:
            steps.append(None)
        return [await self._run_cell(group, prepared, reference, step) for step in steps]

    async def close(self) -> None:
        """Close the examples' databases. The sources stay open."""
        for prepared, _ in self._prepared.values():
            await prepared.remove()
        self._prepared.clear()

    def _source(self, kind: Dialect) -> DatabaseSource | DatabaseUnavailable:
        key = (kind, id(self._suite.tables))
        if key not in self.sources:
            try:
                self.sources[key] = source_of(kind, self._suite.tables)
            except DatabaseUnavailable as reason:
                self.sources[key] = reason
        return self.sources[key]

    def _cell(self, group: Group, location: str) -> Cell:
        return Cell(
            orchestrator=self._suite.orchestrator.__name__,
            example=str(group.example),
            fault=group.fault.name,
            location=location,
            database=group.database,
        )

    async def _prepare(self, group: Group, source: DatabaseSource) -> tuple[PreparedDatabases, Reference]:
        key = (str(group.example), group.database)
        if key not in self._prepared:
            prepared = PreparedDatabases(
                source, self._catalog(), self._suite.tables, group.example, self._suite.equality
            )
            try:
                await prepared.prepare()
                self._prepared[key] = (prepared, await self._reference(prepared, group.example))
            except BaseException:
                await prepared.close()
                raise
        prepared, reference = self._prepared[key]
        if group.fault.needs_other and reference.by_other is None:
            await self._run_with_other(prepared, reference, group.example)
        return prepared, reference

    async def _reference(self, prepared: PreparedDatabases, example: Example) -> Reference:
        await prepared.reset()
        outcome = await self._run_without_fault(prepared, example, example.event, EVENT_ID)
        if outcome.error_code != example.refused:
            # Otherwise every cell would end in the state before the event, whatever the fault, and prove nothing.
            ended = f"{outcome.phase}, {outcome.error_code}: {outcome.message}" if outcome.error_code else "completed"
            wanted = f"failed, {example.refused}" if example.refused else "completed"
            raise CheckFailed([f"it must end as {wanted}, but ended as {ended}"])
        key = saga_id(self._suite.orchestrator.__name__, EVENT_ID)
        async with prepared.database.reading() as connection:
            rows = (
                await connection.execute(select(saga_step).where(saga_step.c.saga_id == key).order_by("number"))
            ).all()
        return Reference(
            before=prepared.before,
            after=await prepared.state(),
            steps=tuple(ReferenceStep.of(row, self._catalog()) for row in rows),
            outcome=outcome,
        )

    async def _run_with_other(self, prepared: PreparedDatabases, reference: Reference, example: Example) -> None:
        other = example.other or example.event
        states: list[State] = []
        for sequence in (
            [(other, OTHER_EVENT_ID)],
            [(example.event, EVENT_ID), (other, OTHER_EVENT_ID)],
            [(other, OTHER_EVENT_ID), (example.event, EVENT_ID)],
        ):
            await prepared.reset()
            for event, event_id in sequence:
                await self._run_without_fault(prepared, example, event, event_id)
            states.append(await prepared.state())
        reference.by_other, reference.by_both = states[0], tuple(states[1:])

    async def _run_without_fault(
        self, prepared: PreparedDatabases, example: Example, event: DomainEvent, event_id: str
    ) -> Outcome:
        sent = sent_to(example)
        envelope = envelope_of(event, event_id=event_id)
        steps = InjectedSteps(prepared.databases, self._catalog(), Injection(), sent)
        try:
            return await Driver(self._suite.orchestrator, event, envelope, steps).drive()
        except Exception as fault:
            raise CheckFailed([f"{type(fault).__name__}: {fault}"]) from fault

    def _catalog(self) -> Catalog:
        if self._instrumented is None:
            self._instrumented = instrumented(self._suite.find_catalog())
        return self._instrumented

    async def _run_cell(
        self, group: Group, prepared: PreparedDatabases, reference: Reference, step: ReferenceStep | None
    ) -> Result:
        cell = self._cell(group, THE_END if step is None else f"step {step.number}, {step.operation}")
        reason = group.fault.reason_against(reference, step)
        if reason is not None:
            return Result(cell, Verdict.DECLARED, reason)
        await prepared.reset()
        if differences := describe_differences(reference.before, await prepared.state()):
            return Result(
                cell, Verdict.FAILED, "\n".join(["the state could not be reset before the cell", *differences])
            )
        scenario = Scenario(
            self._suite.orchestrator,
            group.example,
            self._catalog(),
            prepared,
            reference,
            step,
            strategies={operation.name: by_parameter for operation, by_parameter in self._suite.strategies.items()},
            property_examples=self._suite.property_examples,
        )
        try:
            try:
                await scenario.with_time_limit(group.fault.run(scenario))
            finally:
                await scenario.stop_drivers()
            problems = await _find_problems(scenario)
        except NotApplicable as not_applicable:
            return Result(cell, Verdict.DECLARED, str(not_applicable))
        except FaultDidNotOccur as fault:
            problems = [f"the fault did not occur: {fault}"]
        except CheckFailed as failed:
            problems = list(failed.problems)
        except Exception as fault:
            problems = [f"a driver raised {type(fault).__name__}: {fault}"]
        if not problems and scenario.declared is not None:
            return Result(cell, Verdict.DECLARED, scenario.declared)
        if not problems:
            return Result(cell, Verdict.HIT)
        result = Result(cell, Verdict.FAILED, _describe_failure(group.fault, scenario, problems))
        await prepared.prepare()  # the failure may have left rows that a reset does not remove
        return result


async def run_suite(suite: Suite, *, databases: Collection[Dialect] | None = None, part: Slice = WHOLE) -> list[Result]:
    """Run every cell of a suite, or of a slice of its groups, on some or on all of its kinds of database."""
    runner = SuiteRunner(suite, {})
    try:
        groups = [group for group in suite.groups() if databases is None or group.database in databases]
        return [result for group in part.of(groups) for result in await runner.run(group)]
    finally:
        await runner.close()
        await close_sources(runner.sources)


async def close_sources(sources: Sources) -> None:
    """Drop the databases of every source that is available."""
    for source in sources.values():
        if not isinstance(source, DatabaseUnavailable):
            await source.close()


async def _find_problems(scenario: Scenario) -> list[str]:
    """Run every check after a fault, and return one line for each problem."""
    problems, phase = await one_outcome(scenario.database, scenario.saga_id, scenario.outcomes)
    problems += await nothing_open(scenario.database)
    if phase is None or not phase.is_final:
        return problems
    problems += await _check_ending(scenario, phase)
    correct = [(description, state) for description, state in scenario.expected if state is not None]
    correct = correct or [state_of_phase(scenario.reference, phase)]
    actual = await scenario.prepared.state()
    compared = [(description, describe_differences(state, actual)) for description, state in correct]
    if all(differences for _, differences in compared):
        description, differences = min(compared, key=lambda comparison: len(comparison[1]))
        problems += [f"the saga ended as {phase}, so everything must be {description}:", *differences]
    return problems


async def _check_ending(scenario: Scenario, phase: Phase) -> list[str]:
    clean = scenario.reference.outcome.phase
    match scenario.ending:
        case "as without a fault":
            return [] if phase is clean else [f"the saga must end as {clean}, but ended as {phase}"]
        case "undone":
            async with scenario.database.reading() as connection:
                pivots = await connection.execute(
                    select(saga_step.c.number).where(
                        saga_step.c.saga_id == scenario.saga_id,
                        saga_step.c.irreversible.is_(True),
                        saga_step.c.state == "done",
                    )
                )
            correct = (Phase.COMPLETED,) if pivots.first() else (Phase.FAILED, Phase.CANCELLED)
            return [] if phase in correct else [f"the saga must end as {' or '.join(correct)}, but ended as {phase}"]
        case _:
            return []


def _describe_failure(fault: Fault, scenario: Scenario, problems: Sequence[str]) -> str:
    """List what was injected, what the checks found, and the points that each driver passed."""
    lines = [f"  fault     {fault.explains}"]
    lines += [
        f"  injected  {injection.name}, {description}"
        for injection in scenario.injections
        for description in injection.descriptions
    ]
    lines += [f"  found     {line}" for problem in problems for line in problem.splitlines()]
    for injection in scenario.injections:
        passed = injection.passed[-_SHOWN_POINTS:]
        cut = "… " if len(passed) < len(injection.passed) else ""
        if passed:
            lines.append(f"  passed    {injection.name}: {cut}{' > '.join(passed)}")
    return "\n".join(lines)
