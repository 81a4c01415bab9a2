"""The catalog: every event, operation and orchestrator that an application declares, found by walking its packages.

Definitions do not register themselves, so a module that is imported twice, as in Temporal's sandbox, is found once.
"""

import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType, ModuleType
from typing import Any, TypeGuard, cast

from pydantic import JsonValue

from orchestrator.definition.atomic import ATOMIC, atomic_operation, names_in
from orchestrator.definition.checks.duplicates import problems_in
from orchestrator.definition.main_module import adopt_script
from orchestrator.definition.source import Source
from orchestrator.errors import DefinitionError, OrchestratorError, Problem
from orchestrator.event import DomainEvent, FailureEvent
from orchestrator.operation import PIVOT, Operation
from orchestrator.orchestrator import Orchestrator, is_base

AnyOrchestrator = type[Orchestrator[Any, Any, Any]]


@dataclass(frozen=True)
class Catalog:
    """An application's events, operations and orchestrators, by name."""

    events: MappingProxyType[str, type[DomainEvent]]
    """Events by type, e.g. `MONEY_TRANSFER_REQUESTED`."""
    operations: MappingProxyType[str, Operation[..., Any]]
    """Operations by name, e.g. `account.withdraw`."""
    orchestrators: MappingProxyType[str, AnyOrchestrator]
    """Orchestrators by class name, which is the Temporal workflow type."""

    @classmethod
    def of(
        cls,
        *,
        orchestrators: Iterable[AnyOrchestrator],
        operations: Iterable[Operation[..., Any]] = (),
        events: Iterable[type[DomainEvent]] = (),
    ) -> "Catalog":
        """Create a catalog from definitions. The events of the orchestrators are included without being passed.

        Raises:
            DefinitionError: something is declared incorrectly; the error lists every fault.
        """
        found = _Found(list(dict.fromkeys(orchestrators)), list(dict.fromkeys(operations)), list(dict.fromkeys(events)))
        return cls._checked(found, [])

    @classmethod
    def discover(cls, packages: Sequence[str]) -> "Catalog":
        """Import every module of some packages and collect its definitions.

        Args:
            packages: their importable names, e.g. `["events", "activities", "workflows"]`.

        Raises:
            DefinitionError: something is declared incorrectly or cannot be imported; the error lists every fault.
        """
        found = _Found([], [], [])
        broken: _Broken = {}
        for module in _modules(packages, broken):
            found.add_definitions(module)
        return cls._checked(found, [source.problem(text) for source, text in broken])

    @classmethod
    def _checked(cls, found: "_Found", broken: Sequence[Problem]) -> "Catalog":
        found.add_events_of_orchestrators()
        if problems := [*broken, *problems_in(found.events, found.operations, found.orchestrators)]:
            raise DefinitionError(problems)
        return cls(
            events=MappingProxyType({event.type_name(): event for event in sorted(found.events, key=_by_name)}),
            operations=MappingProxyType(
                {operation.name: operation for operation in sorted(found.operations, key=lambda each: each.name)}
            ),
            orchestrators=MappingProxyType(
                {orchestrator.__name__: orchestrator for orchestrator in sorted(found.orchestrators, key=_by_name)}
            ),
        )

    def listeners(self, event: type[DomainEvent]) -> list[AnyOrchestrator]:
        """Return the orchestrators that an event starts, sorted by name."""
        return [orchestrator for orchestrator in self.orchestrators.values() if event in orchestrator.requests]

    def listeners_of(self, event_type: str) -> "tuple[AnyOrchestrator, ...]":
        """Return the orchestrators that an event of this type starts, sorted by name. An unknown type starts none."""
        return self._listeners.get(event_type, ())

    @cached_property
    def shared(self) -> frozenset[str]:
        """The types of events that start more than one orchestrator."""
        return frozenset(name for name, listening in self._listeners.items() if len(listening) > 1)

    @cached_property
    def _listeners(self) -> "dict[str, tuple[AnyOrchestrator, ...]]":
        return {name: tuple(self.listeners(event)) for name, event in self.events.items()}

    def operation(self, name: str) -> Operation[..., Any]:
        """Return an operation by name, including the engine's own.

        Raises:
            KeyError: it is not declared.
        """
        return _ENGINE_OPERATIONS[name] if name in _ENGINE_OPERATIONS else self.operations[name]

    def called(self, name: str, arguments: Mapping[str, JsonValue]) -> Operation[..., Any]:
        """Return the operation that a step runs. For an atomic step it is composed of the operations of its calls.

        Raises:
            KeyError: the operation is not declared.
            OrchestratorError: an operation that an atomic step calls is not declared.
        """
        if name != ATOMIC.name:
            return self.operation(name)
        names = names_in(name, arguments)
        if unknown := [called for called in names if called not in self.operations]:
            raise OrchestratorError(f"this worker's code has no operation {', '.join(unknown)}, which a step calls")
        return atomic_operation(tuple(self.operations[called] for called in names))

    def compensation_of(self, operation: str) -> str:
        """Return the name of an operation's compensation, e.g. `account.put_back`, or an empty string."""
        undo = self.operation(operation).undo
        return undo.name if undo else ""

    def definition_digest(self, orchestrator: str) -> str | None:
        """Return the SHA-256 of an orchestrator's source, which shows which code a saga was started with."""
        return self._digests.get(orchestrator)

    @cached_property
    def _digests(self) -> dict[str, str]:
        digests: dict[str, str] = {}
        for name, orchestrator in self.orchestrators.items():
            try:
                source = inspect.getsource(orchestrator)
            except (OSError, TypeError):
                continue
            digests[name] = hashlib.sha256(source.encode()).hexdigest()
        return digests


_ENGINE_OPERATIONS: dict[str, Operation[..., Any]] = {PIVOT.name: PIVOT, ATOMIC.name: ATOMIC}
"""The engine's own operations."""


@dataclass
class _Found:
    orchestrators: list[AnyOrchestrator]
    operations: list[Operation[..., Any]]
    events: list[type[DomainEvent]]

    def add_definitions(self, module: ModuleType) -> None:
        """Add the definitions of a module, without those that it imports, and without duplicates."""
        for value in list(vars(module).values()):
            if isinstance(value, Operation):
                self._add_operation(cast(Operation[..., Any], value), module)
            elif isinstance(value, type) and value.__module__ == module.__name__:
                # An operation inside a class would never be registered. It is added here so that a check reports it.
                for inner in vars(value).values():
                    if isinstance(inner, Operation):
                        self._add_operation(cast(Operation[..., Any], inner), module)
                if _is_orchestrator(value):
                    if not is_base(value) and value not in self.orchestrators:
                        self.orchestrators.append(value)
                elif issubclass(value, DomainEvent) and value not in self.events:
                    self.events.append(value)

    def add_events_of_orchestrators(self) -> None:
        """Add every event that an orchestrator refers to, wherever it is defined."""
        for orchestrator in self.orchestrators:
            roles: list[object] = [getattr(orchestrator, role, None) for role in ("completed", "failed")]
            roles += getattr(orchestrator, "requests", ())
            awaited: object = getattr(orchestrator, "awaited", ())
            if isinstance(awaited, tuple):
                roles += cast(tuple[object, ...], awaited)
            for event in roles:
                if not isinstance(event, type) or not issubclass(event, DomainEvent):
                    continue  # the checks report it
                if event not in (DomainEvent, FailureEvent) and event not in self.events:
                    self.events.append(event)

    def _add_operation(self, operation: Operation[..., Any], module: ModuleType) -> None:
        if operation.module == module.__name__ and operation not in self.operations:
            self.operations.append(operation)


_Broken = dict[tuple[Source, str], None]
"""The import errors, in order. A broken module breaks every module that imports it, but is reported only once."""


def _modules(packages: Sequence[str], broken: _Broken) -> Iterator[ModuleType]:
    seen: set[str] = set()
    for root in packages:
        package = _import(root, root, broken)
        if package is None:
            continue
        yield package
        paths = getattr(package, "__path__", [])
        for info in pkgutil.walk_packages(paths, f"{root}.", onerror=lambda _: None):
            # A `__main__` module is meant to be run, not imported.
            if info.name in seen or info.name.endswith(".__main__"):
                continue
            seen.add(info.name)
            module = _import(info.name, root, broken)
            if module is not None:
                yield module


def _import(name: str, root: str, broken: _Broken) -> ModuleType | None:
    try:
        adopt_script(name)
        return importlib.import_module(name)
    except Exception as fault:  # an author's module may raise anything, and all faults are reported together
        text = f"cannot be imported, {type(fault).__name__}: {(str(fault).splitlines() or [''])[0]}"
        if isinstance(fault, SyntaxError):
            source = Source(fault.filename or name, fault.lineno or 0)
            text = f"cannot be imported, {type(fault).__name__}: {fault.msg}"
        else:
            source = _source_of(fault, root) or Source(name, 0)
        broken.setdefault((source, text))
        return None


def _source_of(fault: BaseException, root: str) -> Source | None:
    """Return the last line of the author's code in a traceback. A line in a library, such as pydantic, is no help."""
    source: Source | None = None
    trace = fault.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module == root or module.startswith(f"{root.partition('.')[0]}."):
            source = Source(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    return source


def _is_orchestrator(definition: type) -> TypeGuard[AnyOrchestrator]:
    return issubclass(definition, Orchestrator)


def _by_name(definition: type) -> str:
    return definition.__name__
