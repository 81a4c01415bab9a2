"""Hosts are the Temporal workflow classes that the engine creates for orchestrators.

For each execution, Temporal's sandbox imports the workflow class again, by module and name. This module resolves the
name in `__getattr__`, which imports the author's module *inside* the sandbox, where the sandbox notices if `handle`
uses a clock, random numbers or files. The engine, events and operations are passed through.
"""

import importlib
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar

from pydantic import JsonValue
from temporalio import workflow
from temporalio.common import RawValue
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from orchestrator.definition.catalog import Catalog
from orchestrator.definition.main_module import adopt_script, importable_name
from orchestrator.definition.source import Source
from orchestrator.errors import DefinitionError, Problem
from orchestrator.orchestrator import Orchestrator
from orchestrator.protocol import names
from orchestrator.workflow.own_execution import SagaExecution
from orchestrator.workflow.partition import PartitionExecution
from orchestrator.workflow.sandbox.modules import prepare_modules
from orchestrator.workflow.sandbox.runner import PlainPayloadsRunner


class Host:
    """The base class of hosts. Its execution is a partition or a saga's own execution, depending on the workflow id.

    Handlers only append to the execution's inbox or queue.
    """

    location: ClassVar["_Location"]

    def __init__(self) -> None:
        # Signals of the first task arrive before `run`, so the execution is created here.
        is_partition = names.is_partition(workflow.info().workflow_id)
        self.execution = PartitionExecution() if is_partition else SagaExecution(self.location.orchestrator())

    @workflow.signal(dynamic=True)
    def receive_signal(self, name: str, args: Sequence[RawValue]) -> None:
        """Receive any signal with any arguments."""
        self.execution.receive(name, args)

    @workflow.update(dynamic=True)
    async def receive_update(self, name: str, args: Sequence[RawValue]) -> dict[str, JsonValue]:
        """Receive any update with any arguments, which are read later, like those of a signal.

        The handler ends immediately, so that no run can end before it. It must not raise, because an exception would
        fail the workflow task forever.
        """
        return {"accepted": self.execution.receive_update(args)}


@dataclass(frozen=True, slots=True)
class _Location:
    """Where an orchestrator's class is defined."""

    module: str
    name: str

    def orchestrator(self) -> type[Orchestrator[Any, Any, Any]]:
        """Import the author's class. Inside a sandbox, the result is that sandbox's own copy."""
        orchestrator: type[Orchestrator[Any, Any, Any]] = getattr(importlib.import_module(self.module), self.name)
        return orchestrator


_locations: dict[str, _Location] = {}
_hosts: dict[str, type] = {}
"""The hosts. All sandboxes share them, because Temporal's analysis of a class takes nearly half of an execution's
start."""
_numbers = count(1)


def hosts_of(catalog: Catalog) -> list[type]:
    """Return a workflow class for each orchestrator, under the orchestrator's name, for a Temporal `Worker`."""
    hosts: list[type] = []
    for name, orchestrator in catalog.orchestrators.items():
        attribute = f"{name}_{next(_numbers)}"
        module = importable_name(orchestrator.__module__)
        adopt_script(module)
        _locations[attribute] = _Location(module, name)
        hosts.append(getattr(importlib.import_module(__name__), attribute))
    return hosts


def sandbox_for(catalog: Catalog) -> SandboxedWorkflowRunner:
    """Return Temporal's sandbox, which imports only the orchestrators' modules again for each execution.

    Every other module that has been loaded is passed through, because importing a library takes seconds. The tables in
    the orchestrators' modules are passed through as well, because they cannot be declared twice. The executed code is
    that of the first import, even if the files have changed since.
    """
    sandboxed = {
        importable_name(base.__module__)
        for orchestrator in catalog.orchestrators.values()
        for base in orchestrator.__mro__
        if issubclass(base, Orchestrator) and base is not Orchestrator
    }
    passed_through: set[str] = set()
    imported_again: set[str] = set()
    for name in [*sys.modules, __name__]:
        package = name.partition(".")[0]
        if package in sys.stdlib_module_names or name == "__main__":
            continue  # Temporal decides how to restrict these
        if not any(module.partition(".")[0] == package for module in sandboxed):
            passed_through.add(package)
        elif not any(module == name or module.startswith(f"{name}.") for module in sandboxed):
            passed_through.add(name)
        else:
            imported_again.add(name)
    prepare_modules(imported_again)
    return PlainPayloadsRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*passed_through))


@contextmanager
def sandbox_faults(catalog: Catalog) -> Generator[None]:
    """Report an orchestrator that Temporal's sandbox cannot load as a definition fault.

    Raises:
        DefinitionError: Temporal's `Worker` or `Replayer` was created inside the context, and could not load a module.
    """
    try:
        yield
    except RuntimeError as fault:
        if (problem := _sandbox_problem(catalog, fault)) is None:
            raise
        raise DefinitionError([problem]) from fault


def _sandbox_problem(catalog: Catalog, fault: BaseException) -> Problem | None:
    """Return the definition fault that prevented Temporal's `Worker` from starting; None for any other error."""
    cause = fault.__cause__
    name = str(fault).rpartition(" ")[2]
    if cause is None or name not in catalog.orchestrators or not str(fault).startswith("Failed validating workflow "):
        return None
    orchestrator = catalog.orchestrators[name]
    reason = (str(cause).splitlines() or [""])[0].rstrip(".")
    return Source.of(orchestrator).problem(
        f"{name} cannot be loaded in Temporal's sandbox, which imports its module again for each execution: "
        f"{type(cause).__name__}: {reason}. Move code that may run only once, or that "
        "reads a clock or a file during the import, into a module without orchestrators"
    )


def __getattr__(attribute: str) -> type:
    location = _locations.get(attribute)
    if location is None:
        raise AttributeError(f"no orchestrator is registered as {attribute}")
    orchestrator = location.orchestrator()  # imported here, because the sandbox warns about imports during execution
    if attribute not in _hosts:
        _hosts[attribute] = _host(attribute, location, orchestrator.__doc__)
    return _hosts[attribute]


def _host(attribute: str, location: _Location, doc: str | None) -> type:
    async def run(self: Host, *arguments: RawValue) -> Any:
        return await self.execution.take_all(arguments)

    run.__qualname__ = f"{attribute}.run"
    members = {
        "__module__": __name__,
        "__qualname__": attribute,
        "__doc__": doc,
        "location": location,
        "run": workflow.run(run),
    }
    host = type(attribute, (Host,), members)
    return workflow.defn(name=location.name)(host)
