"""The suite: every fault at every place of every example of one orchestrator, on each kind of database."""

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
from orchestrator.protocol.envelope import saga_id
from orchestrator.settings import Settings
from orchestrator.store.connections.url import Dialect
from orchestrator.store.core.schema import saga_step
from orchestrator.testing.conformance.checks import nothing_open, one_outcome, state_of_phase, unlike
from orchestrator.testing.conformance.databases import KINDS, Ground, NotHere, Server, server_of
from orchestrator.testing.conformance.faults import Fault, NotApplicable
from orchestrator.testing.conformance.injection import InjectedSteps, Injection, instrumented
from orchestrator.testing.conformance.reference import PlayedStep, Reference
from orchestrator.testing.conformance.report import Cell, Result, Verdict
from orchestrator.testing.conformance.runners import FAULTS
from orchestrator.testing.conformance.scenario import (
    EVENT_ID,
    OTHER_EVENT_ID,
    Missed,
    Stage,
    Wrong,
    envelope_of,
    sent_to,
)
from orchestrator.testing.conformance.state import State
from orchestrator.testing.example import Equality, Example
from orchestrator.testing.slices import WHOLE, Slice

THE_END = "the end"
TRIMMED = "trimmed here: `python -m orchestrator.testing` plays them"
_SHOWN_POINTS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The cells of one fault, of one example, on one database: what one test of pytest plays."""

    example: Example
    fault: Fault
    database: Dialect

    def __str__(self) -> str:
        return f"{self.fault.name}-{self.example}-{self.database}"


@dataclass(kw_only=True)
class Suite:
    """What is to be proved of one orchestrator.

    Attributes:
        orchestrator: its class.
        examples: at least one.
        catalog: by default whatever the settings' packages declare.
        tables: of the application; by default every SQLModel table that is imported.
        equality: what counts as equal.
        databases: kinds to play on.
        strategies: for `do, then undo`, by operation and parameter.
        property_examples: how many calls `do, then undo` tries for each step.
        faults: names; by default all.
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
            raise UsageError(f"two examples have one name, of {names}: Example(event, name=...)")
        if unknown := set(self.faults or ()) - FAULTS.keys():
            raise UsageError(f"there is no fault {sorted(unknown)}; there are {list(FAULTS)}")

    def groups(self) -> list[Group]:
        """What there is to play, in order."""
        chosen = [one for name, one in FAULTS.items() if self.faults is None or name in self.faults]
        return [
            Group(example=example, fault=fault, database=database)
            for database in self.databases
            for example in self.examples
            for fault in chosen
        ]

    def known(self) -> Catalog:
        """The catalog, with this suite's orchestrator in it.

        Raises:
            UsageError: it is not.
        """
        if self.catalog is None:
            self.catalog = Catalog.discover(Settings().packages)
        if self.catalog.orchestrators.get(self.orchestrator.__name__) is not self.orchestrator:
            raise UsageError(
                f"{self.orchestrator.__name__} is not in the catalog: put it in one of the packages that "
                "ORCHESTRATOR_PACKAGES or [tool.orchestrator] names, or give `catalog=Catalog.of(...)`"
            )
        return self.catalog


class Players:
    """Plays groups of one suite; its databases, and what each example does when nothing happens, are kept in between.

    Args:
        suite: which one.
        servers: where databases come from, by kind and tables; suites may share them. Their owner closes them.
    """

    def __init__(self, suite: Suite, servers: dict[tuple[Dialect, int], Server | NotHere]) -> None:
        self._suite = suite
        self.servers = servers
        self._catalog: Catalog | None = None
        self._grounds: dict[tuple[str, Dialect], tuple[Ground, Reference]] = {}

    async def play(self, group: Group) -> list[Result]:
        """Every cell of a group."""
        server = self._server(group.database)
        if isinstance(server, NotHere):
            return [Result(self._cell(group, "each place"), Verdict.DECLARED, str(server))]
        try:
            ground, reference = await self._laid(group, server)
        except (Missed, Wrong) as fault:
            return [Result(self._cell(group, "each place"), Verdict.FAILED, f"no clean run: {fault}")]
        places: list[PlayedStep | None] = list(reference.steps) if group.fault.at_steps else []
        if group.fault.at_the_end:
            places.append(None)
        return [await self._play_cell(group, ground, reference, place) for place in places]

    async def close(self) -> None:
        """Let go of the databases; the servers stay."""
        for ground, _ in self._grounds.values():
            await ground.remove()
        self._grounds.clear()

    def _server(self, kind: Dialect) -> Server | NotHere:
        key = (kind, id(self._suite.tables))
        if key not in self.servers:
            self.servers[key] = _server(kind, self._suite.tables)
        return self.servers[key]

    def _cell(self, group: Group, place: str) -> Cell:
        return Cell(
            orchestrator=self._suite.orchestrator.__name__,
            example=str(group.example),
            fault=group.fault.name,
            place=place,
            database=group.database,
        )

    async def _laid(self, group: Group, server: Server) -> tuple[Ground, Reference]:
        key = (str(group.example), group.database)
        if key not in self._grounds:
            if self._catalog is None:
                self._catalog = instrumented(self._suite.known())
            ground = Ground(server, self._catalog, self._suite.tables, group.example, self._suite.equality)
            try:
                await ground.lay()
                self._grounds[key] = (ground, await self._reference(ground, group.example))
            except BaseException:
                await ground.close()
                raise
        ground, reference = self._grounds[key]
        if group.fault.needs_other and reference.by_other is None:
            await self._run_the_other(ground, reference, group.example)
        return ground, reference

    async def _reference(self, ground: Ground, example: Example) -> Reference:
        await ground.put_back()
        outcome = await self._run(ground, example, example.event, EVENT_ID)
        if outcome.error_code != example.refused:
            # Else everything would be as before, whatever the fault, and prove nothing.
            ended = f"{outcome.phase}, {outcome.error_code}: {outcome.message}" if outcome.error_code else "completed"
            wanted = f"failed, {example.refused}" if example.refused else "completed"
            raise Wrong([f"it must end as {wanted}, and ended as {ended}"])
        key = saga_id(self._suite.orchestrator.__name__, EVENT_ID)
        async with ground.database.reading() as connection:
            rows = (
                await connection.execute(select(saga_step).where(saga_step.c.saga_id == key).order_by("number"))
            ).all()
        return Reference(
            before=ground.before,
            after=await ground.state(),
            steps=tuple(PlayedStep.of(row, self._known()) for row in rows),
            outcome=outcome,
        )

    async def _run_the_other(self, ground: Ground, reference: Reference, example: Example) -> None:
        other = example.other or example.event
        states: list[State] = []
        for sequence in (
            [(other, OTHER_EVENT_ID)],
            [(example.event, EVENT_ID), (other, OTHER_EVENT_ID)],
            [(other, OTHER_EVENT_ID), (example.event, EVENT_ID)],
        ):
            await ground.put_back()
            for event, event_id in sequence:
                await self._run(ground, example, event, event_id)
            states.append(await ground.state())
        reference.by_other, reference.by_both = states[0], tuple(states[1:])

    async def _run(self, ground: Ground, example: Example, event: DomainEvent, event_id: str) -> Outcome:
        """One clean run."""
        sent = sent_to(example)
        injection = Injection()
        envelope = envelope_of(event, event_id=event_id)
        steps = InjectedSteps(ground.databases, self._known(), injection, sent)
        try:
            return await Driver(self._suite.orchestrator, event, envelope, steps).drive()
        except Exception as fault:
            raise Wrong([f"{type(fault).__name__}: {fault}"]) from fault

    def _known(self) -> Catalog:
        if self._catalog is None:
            self._catalog = instrumented(self._suite.known())
        return self._catalog

    async def _play_cell(self, group: Group, ground: Ground, reference: Reference, place: PlayedStep | None) -> Result:
        cell = self._cell(group, THE_END if place is None else f"step {place.number}, {place.operation}")
        reason = group.fault.reason_against(reference, place)
        if reason is not None:
            return Result(cell, Verdict.DECLARED, reason)
        await ground.put_back()
        if wrong := unlike(reference.before, await ground.state()):
            return Result(cell, Verdict.FAILED, "\n".join(["the state could not be put back before the cell", *wrong]))
        stage = Stage(
            self._suite.orchestrator,
            group.example,
            self._known(),
            ground,
            reference,
            place,
            strategies={operation.name: given for operation, given in self._suite.strategies.items()},
            property_examples=self._suite.property_examples,
        )
        try:
            try:
                await stage.within(group.fault.play(stage))
            finally:
                await stage.leave()
            found = await _not_as_it_must_be(stage)
        except NotApplicable as reason_found:
            return Result(cell, Verdict.DECLARED, str(reason_found))
        except Missed as missed:
            found = [f"the fault did not occur: {missed}"]
        except Wrong as wrong_found:
            found = list(wrong_found.found)
        except Exception as fault:
            found = [f"a driver raised {type(fault).__name__}: {fault}"]
        if not found and stage.declared is not None:
            return Result(cell, Verdict.DECLARED, stage.declared)
        if not found:
            return Result(cell, Verdict.HIT)
        story = Result(cell, Verdict.FAILED, _story(group.fault, stage, found))
        await ground.lay()  # whatever is wrong there stays there
        return story


async def play_suite(
    suite: Suite, *, databases: Collection[Dialect] | None = None, part: Slice = WHOLE
) -> list[Result]:
    """Every cell of a suite or of a slice of its groups, on these kinds of database or on all of its own."""
    players = Players(suite, {})
    try:
        groups = [group for group in suite.groups() if databases is None or group.database in databases]
        return [result for group in part.of(groups) for result in await players.play(group)]
    finally:
        await players.close()
        for server in players.servers.values():
            if not isinstance(server, NotHere):
                await server.close()


def _server(kind: Dialect, tables: MetaData) -> Server | NotHere:
    try:
        return server_of(kind, tables)
    except NotHere as missing:
        return missing


async def _not_as_it_must_be(stage: Stage) -> list[str]:
    """Everything that is wrong when a play is over."""
    wrong, phase = await one_outcome(stage.database, stage.saga_id, stage.outcomes)
    wrong += await nothing_open(stage.database)
    if phase is None or not phase.is_final:
        return wrong
    wrong += await _ending(stage, phase)
    right = [(told, state) for told, state in stage.expected if state is not None]
    right = right or [state_of_phase(stage.reference, phase)]
    found = await stage.ground.state()
    differing = [(told, unlike(state, found)) for told, state in right]
    if all(lines for _, lines in differing):
        told, lines = min(differing, key=lambda one: len(one[1]))
        wrong += [f"the saga ended as {phase}, so everything must be {told}:", *lines]
    return wrong


async def _ending(stage: Stage, phase: Phase) -> list[str]:
    clean = stage.reference.outcome.phase
    match stage.ending:
        case "as if nothing happened":
            return [] if phase is clean else [f"the saga must end as {clean} and ended as {phase}"]
        case "taken back":
            async with stage.database.reading() as connection:
                pivots = await connection.execute(
                    select(saga_step.c.number).where(
                        saga_step.c.saga_id == stage.saga_id,
                        saga_step.c.irreversible.is_(True),
                        saga_step.c.state == "done",
                    )
                )
            right = (Phase.COMPLETED,) if pivots.first() else (Phase.FAILED, Phase.CANCELLED)
            return [] if phase in right else [f"the saga must end as {' or '.join(right)} and ended as {phase}"]
        case _:
            return []


def _story(fault: Fault, stage: Stage, found: Sequence[str]) -> str:
    """What was injected where, what was found, and the way that each driver took."""
    lines = [f"  fault     {fault.explains}"]
    lines += [f"  injected  {injection.name}, {told}" for injection in stage.injections for told in injection.told]
    lines += [f"  found     {line}" for text in found for line in text.splitlines()]
    for injection in stage.injections:
        passed = injection.passed[-_SHOWN_POINTS:]
        cut = "… " if len(passed) < len(injection.passed) else ""
        if passed:
            lines.append(f"  way       {injection.name}: {cut}{' > '.join(passed)}")
    return "\n".join(lines)
