"""The catalog: every event, operation and orchestrator that an application declares, found by walking its packages.

Nothing registers itself: a module may be imported twice (Temporal's sandbox does so) without being found twice.
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
from orchestrator.definition.main_module import adopt_script
from orchestrator.definition.validation import problems_in
from orchestrator.errors import DefinitionError, OrchestratorError, Problem
from orchestrator.event import DomainEvent, FailureEvent
from orchestrator.operation import PIVOT, Operation, Source
from orchestrator.orchestrator import Orchestrator, is_base

AnyOrchestrator = type[Orchestrator[Any, Any, Any]]


@dataclass(frozen=True)
class Catalog:
    """What an application declares, by name."""

    events: MappingProxyType[str, type[DomainEvent]]
    """By type, e.g. `MONEY_TRANSFER_REQUESTED`."""
    operations: MappingProxyType[str, Operation[..., Any]]
    """By name, e.g. `account.withdraw`."""
    orchestrators: MappingProxyType[str, AnyOrchestrator]
    """By class name, which is the Temporal workflow type."""

    @classmethod
    def of(
        cls,
        *,
        orchestrators: Iterable[AnyOrchestrator],
        operations: Iterable[Operation[..., Any]] = (),
        events: Iterable[type[DomainEvent]] = (),
    ) -> "Catalog":
        """A catalog from definitions at hand; the orchestrators' own events need not be named.

        Raises:
            DefinitionError: with every fault.
        """
        found = _Found(list(dict.fromkeys(orchestrators)), list(dict.fromkeys(operations)), list(dict.fromkeys(events)))
        return cls._checked(found, [])

    @classmethod
    def discover(cls, packages: Sequence[str]) -> "Catalog":
        """Import every module of these packages and take what it defines.

        Args:
            packages: importable names, e.g. `["events", "activities", "workflows"]`.

        Raises:
            DefinitionError: with every fault, modules that cannot be imported among them.
        """
        found = _Found([], [], [])
        broken: _Broken = {}
        for module in _modules(packages, broken):
            found.take(module)
        return cls._checked(found, [source.problem(text) for source, text in broken])

    @classmethod
    def _checked(cls, found: "_Found", broken: Sequence[Problem]) -> "Catalog":
        found.take_events_of_orchestrators()
        if problems := [*broken, *problems_in(found.events, found.operations, found.orchestrators)]:
            raise DefinitionError(problems)
        return cls(
            events=MappingProxyType({event.type_name(): event for event in sorted(found.events, key=_by_name)}),
            operations=MappingProxyType({one.name: one for one in sorted(found.operations, key=lambda one: one.name)}),
            orchestrators=MappingProxyType({one.__name__: one for one in sorted(found.orchestrators, key=_by_name)}),
        )

    def listeners(self, event: type[DomainEvent]) -> list[AnyOrchestrator]:
        """The orchestrators that an event starts, by name."""
        return [one for one in self.orchestrators.values() if event in one.requests]

    def listeners_of(self, event_type: str) -> "tuple[AnyOrchestrator, ...]":
        """The orchestrators that an event of this type starts, by name; none if the type is not known."""
        return self._listeners.get(event_type, ())

    @cached_property
    def shared(self) -> frozenset[str]:
        """Types of the events that start more than one orchestrator."""
        return frozenset(name for name, listening in self._listeners.items() if len(listening) > 1)

    @cached_property
    def _listeners(self) -> "dict[str, tuple[AnyOrchestrator, ...]]":
        return {name: tuple(self.listeners(event)) for name, event in self.events.items()}

    def operation(self, name: str) -> Operation[..., Any]:
        """An operation by name, the engine's own among them.

        Raises:
            KeyError: nobody declared it.
        """
        return _OWN[name] if name in _OWN else self.operations[name]

    def called(self, name: str, arguments: Mapping[str, JsonValue]) -> Operation[..., Any]:
        """The operation that a step calls with these arguments: an atomic step's is made of those of its calls.

        Raises:
            KeyError: nobody declared it.
            OrchestratorError: nobody declared one that an atomic step calls.
        """
        if name != ATOMIC.name:
            return self.operation(name)
        names = names_in(name, arguments)
        if unknown := [one for one in names if one not in self.operations]:
            raise OrchestratorError(f"this worker's code has no operation {', '.join(unknown)}, which a step calls")
        return atomic_operation(tuple(self.operations[one] for one in names))

    def compensation_of(self, operation: str) -> str:
        """Name of an operation's compensation, e.g. `account.put_back`; empty if there is none."""
        undo = self.operation(operation).undo
        return undo.name if undo else ""

    def definition_digest(self, orchestrator: str) -> str | None:
        """SHA-256 of an orchestrator's source: which code a saga was begun with."""
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


_OWN: dict[str, Operation[..., Any]] = {PIVOT.name: PIVOT, ATOMIC.name: ATOMIC}
"""The engine's own operations."""


@dataclass
class _Found:
    orchestrators: list[AnyOrchestrator]
    operations: list[Operation[..., Any]]
    events: list[type[DomainEvent]]

    def take(self, module: ModuleType) -> None:
        """What a module defines itself, not what it imports; once, also under two names."""
        for value in list(vars(module).values()):
            if isinstance(value, Operation):
                self._take_operation(cast(Operation[..., Any], value), module)
            elif isinstance(value, type) and value.__module__ == module.__name__:
                # An operation inside a class would never be registered; found here, it is reported.
                for inner in vars(value).values():
                    if isinstance(inner, Operation):
                        self._take_operation(cast(Operation[..., Any], inner), module)
                if _is_orchestrator(value):
                    if not is_base(value) and value not in self.orchestrators:
                        self.orchestrators.append(value)
                elif issubclass(value, DomainEvent) and value not in self.events:
                    self.events.append(value)

    def take_events_of_orchestrators(self) -> None:
        """Events that an orchestrator names, wherever they are defined."""
        for orchestrator in self.orchestrators:
            roles: list[object] = [getattr(orchestrator, role, None) for role in ("completed", "failed")]
            roles += getattr(orchestrator, "requests", ())
            awaited: object = getattr(orchestrator, "awaited", ())
            if isinstance(awaited, tuple):
                roles += cast(tuple[object, ...], awaited)
            for event in roles:
                if not isinstance(event, type) or not issubclass(event, DomainEvent):
                    continue  # `definition` reports it
                if event not in (DomainEvent, FailureEvent) and event not in self.events:
                    self.events.append(event)

    def _take_operation(self, operation: Operation[..., Any], module: ModuleType) -> None:
        if operation.module == module.__name__ and operation not in self.operations:
            self.operations.append(operation)


_Broken = dict[tuple[Source, str], None]
"""Places that could not be imported, in order. One broken module breaks all that import it, and is told once."""


def _modules(packages: Sequence[str], broken: _Broken) -> Iterator[ModuleType]:
    seen: set[str] = set()
    for root in packages:
        package = _import(root, root, broken)
        if package is None:
            continue
        yield package
        paths = getattr(package, "__path__", [])
        for info in pkgutil.walk_packages(paths, f"{root}.", onerror=lambda _: None):
            # `__main__` is there to be run, not to be imported.
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
    except Exception as fault:  # an author's module may raise anything; every fault is told at once
        text = f"cannot be imported, {type(fault).__name__}: {(str(fault).splitlines() or [''])[0]}"
        if isinstance(fault, SyntaxError):
            source = Source(fault.filename or name, fault.lineno or 0)
            text = f"cannot be imported, {type(fault).__name__}: {fault.msg}"
        else:
            source = _place(fault, root) or Source(name, 0)
        broken.setdefault((source, text))
        return None


def _place(fault: BaseException, root: str) -> Source | None:
    """The last line of the author's own that led to the fault: pydantic's, for instance, would help nobody."""
    found: Source | None = None
    trace = fault.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module == root or module.startswith(f"{root.partition('.')[0]}."):
            found = Source(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    return found


def _is_orchestrator(one: type) -> TypeGuard[AnyOrchestrator]:
    return issubclass(one, Orchestrator)


def _by_name(one: type) -> str:
    return one.__name__
