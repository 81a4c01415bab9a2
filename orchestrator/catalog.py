"""The catalog: every event, operation and orchestrator that an application declares, found by walking its packages.

Nothing registers itself: a module may be imported twice (Temporal's sandbox does so) without being found twice.
"""

import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, cast

from orchestrator.definition import problems_in
from orchestrator.errors import DefinitionError, Problem
from orchestrator.event import DomainEvent
from orchestrator.operation import Operation
from orchestrator.orchestrator import Orchestrator

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
        for orchestrator in found.orchestrators:
            for name in ("requested", "completed", "failed"):
                event = getattr(orchestrator, name, None)
                if event is not None and event not in found.events:
                    found.events.append(event)
        if problems := problems_in(found.events, found.operations, found.orchestrators):
            raise DefinitionError(problems)
        return cls(
            events=MappingProxyType({event.type_name(): event for event in sorted(found.events, key=_by_name)}),
            operations=MappingProxyType({one.name: one for one in sorted(found.operations, key=lambda one: one.name)}),
            orchestrators=MappingProxyType({one.__name__: one for one in sorted(found.orchestrators, key=_by_name)}),
        )

    @classmethod
    def discover(cls, packages: Sequence[str]) -> "Catalog":
        """Import every module of these packages and take what it defines.

        Args:
            packages: importable names, e.g. `["events", "activities", "workflows"]`.

        Raises:
            DefinitionError: with every fault, modules that cannot be imported among them.
        """
        found = _Found([], [], [])
        broken: list[Problem] = []
        for module in _modules(packages, broken):
            found.take(module)
        if broken:
            raise DefinitionError([*broken, *problems_in(found.events, found.operations, found.orchestrators)])
        return cls.of(orchestrators=found.orchestrators, operations=found.operations, events=found.events)

    def listeners(self, event: type[DomainEvent]) -> list[AnyOrchestrator]:
        """The orchestrators that an event starts, by name."""
        return [one for one in self.orchestrators.values() if one.requested is event]

    def compensation_of(self, operation: str) -> str:
        """Name of an operation's compensation, e.g. `account.put_back`."""
        undo = self.operations[operation].undo
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


@dataclass
class _Found:
    orchestrators: list[AnyOrchestrator]
    operations: list[Operation[..., Any]]
    events: list[type[DomainEvent]]

    def take(self, module: ModuleType) -> None:
        """What a module defines itself, not what it imports."""
        for value in list(vars(module).values()):
            if isinstance(value, Operation):
                operation = cast(Operation[..., Any], value)
                if operation.module == module.__name__ and operation not in self.operations:
                    self.operations.append(operation)
            elif isinstance(value, type) and value.__module__ == module.__name__:
                if issubclass(value, Orchestrator):
                    self.orchestrators.append(cast(AnyOrchestrator, value))
                elif issubclass(value, DomainEvent):
                    self.events.append(value)


def _modules(packages: Sequence[str], broken: list[Problem]) -> Iterator[ModuleType]:
    for name in packages:
        package = _import(name, broken)
        if package is None:
            continue
        yield package
        for info in pkgutil.walk_packages(getattr(package, "__path__", []), f"{name}.", onerror=lambda _: None):
            module = _import(info.name, broken)
            if module is not None:
                yield module


def _import(name: str, broken: list[Problem]) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except Exception as fault:  # an author's module may raise anything; every fault is told at once
        trace = fault.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        file = trace.tb_frame.f_code.co_filename if trace else name
        line = trace.tb_lineno if trace else 0
        if isinstance(fault, SyntaxError):
            file, line = fault.filename or file, fault.lineno or line
        elif file.startswith("<") or not Path(file).exists():
            file, line = name, 0
        broken.append(Problem(file, line, f"{name} cannot be imported: {type(fault).__name__}: {fault}"))
        return None


def _by_name(one: type) -> str:
    return one.__name__
