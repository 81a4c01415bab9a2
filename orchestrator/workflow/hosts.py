"""Hosts: the Temporal workflow class that the engine makes for each orchestrator.

Temporal's sandbox imports a workflow class by module and name, anew for each execution. Here that name is looked up in
`__getattr__`, which imports the author's module *inside* the sandbox: what `handle` reaches for (a clock, chance, a
file) is watched there, while the engine, events and operations are passed through.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar

from pydantic import JsonValue
from temporalio import workflow
from temporalio.common import RawValue
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from orchestrator.definition.catalog import Catalog
from orchestrator.definition.main_module import adopt_script, importable_name
from orchestrator.errors import Problem
from orchestrator.operation import Source
from orchestrator.orchestrator import Orchestrator
from orchestrator.protocol import names
from orchestrator.workflow.own_execution import SagaExecution
from orchestrator.workflow.partition import PartitionExecution
from orchestrator.workflow.sandbox import PlainPayloadsRunner
from orchestrator.workflow.shared_tables import share_tables


class Host:
    """An execution of an orchestrator: by its id it is a partition, or has one saga. Handlers only append."""

    place: ClassVar["_Place"]

    def __init__(self) -> None:
        # Signals of the first task arrive before `run` does.
        is_partition = names.is_partition(workflow.info().workflow_id)
        self.execution = PartitionExecution() if is_partition else SagaExecution(self.place.orchestrator())

    @workflow.signal(dynamic=True)
    def receive_signal(self, name: str, args: Sequence[RawValue]) -> None:
        """Any signal, with any arguments."""
        self.execution.receive(name, args)

    @workflow.update(dynamic=True)
    async def receive_update(self, name: str, args: Sequence[RawValue]) -> dict[str, JsonValue]:
        """Any update, with any arguments: taken as a signal is, and read later.

        Ends at once, so that no run does before it, and raises nothing: that would fail the workflow task for ever.
        """
        return {"accepted": self.execution.receive_update(args)}


@dataclass(frozen=True, slots=True)
class _Place:
    module: str
    name: str

    def orchestrator(self) -> type[Orchestrator[Any, Any, Any]]:
        """The author's class; in a sandbox that sandbox's own."""
        found: type[Orchestrator[Any, Any, Any]] = getattr(importlib.import_module(self.module), self.name)
        return found


_places: dict[str, _Place] = {}
_hosts: dict[str, type] = {}
"""Made once for all sandboxes: what Temporal finds out about a class took it nearly half of an execution's start."""
_numbers = count(1)


def hosts_of(catalog: Catalog) -> list[type]:
    """A workflow class for each orchestrator, named as the orchestrator is, for a Temporal `Worker`."""
    made: list[type] = []
    for name, orchestrator in catalog.orchestrators.items():
        attribute = f"{name}_{next(_numbers)}"
        module = importable_name(orchestrator.__module__)
        adopt_script(module)
        _places[attribute] = _Place(module, name)
        made.append(getattr(importlib.import_module(__name__), attribute))
    return made


def sandbox_for(catalog: Catalog) -> SandboxedWorkflowRunner:
    """Temporal's sandbox, in which only the orchestrators' own modules are imported anew for each execution.

    Everything else that is loaded by now is passed through: a library imported anew each time costs seconds. So are
    the tables of the orchestrators' own modules, which cannot be declared twice.
    """
    watched = {
        importable_name(base.__module__)
        for orchestrator in catalog.orchestrators.values()
        for base in orchestrator.__mro__
        if issubclass(base, Orchestrator) and base is not Orchestrator
    }
    passed: set[str] = set()
    imported_anew: set[str] = set()
    for name in [*sys.modules, __name__]:
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or name == "__main__":
            continue  # which of those are watched is Temporal's to know
        if not any(one.partition(".")[0] == top for one in watched):
            passed.add(top)
        elif not any(one == name or one.startswith(f"{name}.") for one in watched):
            passed.add(name)
        else:
            imported_anew.add(name)
    share_tables(imported_anew)
    return PlainPayloadsRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*passed))


def sandbox_problem(catalog: Catalog, fault: BaseException) -> Problem | None:
    """The fault of definition because of which Temporal's `Worker` could not be made; None if it is something else."""
    cause = fault.__cause__
    name = str(fault).rpartition(" ")[2]
    if cause is None or name not in catalog.orchestrators or not str(fault).startswith("Failed validating workflow "):
        return None
    orchestrator = catalog.orchestrators[name]
    return Source.of(orchestrator).problem(
        f"{name} cannot be loaded in Temporal's sandbox, which imports its module anew for each execution: "
        f"{type(cause).__name__}: {(str(cause).splitlines() or [''])[0]}. Move what may happen only once, or reads a "
        "clock or a file as it is imported, into a module without orchestrators"
    )


def __getattr__(attribute: str) -> type:
    place = _places.get(attribute)
    if place is None:
        raise AttributeError(f"no orchestrator is registered as {attribute}")
    orchestrator = place.orchestrator()  # imported now: an import after the start is a surprise to the sandbox
    if attribute not in _hosts:
        _hosts[attribute] = _host(attribute, place, orchestrator.__doc__)
    return _hosts[attribute]


def _host(attribute: str, place: _Place, doc: str | None) -> type:
    async def run(self: Host, *arguments: RawValue) -> Any:
        return await self.execution.take_all(arguments)

    run.__qualname__ = f"{attribute}.run"
    members = {
        "__module__": __name__,
        "__qualname__": attribute,
        "__doc__": doc,
        "place": place,
        "run": workflow.run(run),
    }
    host = type(attribute, (Host,), members)
    return workflow.defn(name=place.name)(host)
