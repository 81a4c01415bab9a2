"""Faults of processes: a real process drives the saga and sends itself SIGKILL inside or after a transaction.

The process comes from a fork server, so it shares nothing with the test's process and still starts within
milliseconds. It receives the orchestrator and the operations by name, so they must be defined at the top level of
modules that it can import.
"""

import asyncio
import importlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, cast

from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.drive.driver import Driver
from orchestrator.operation import Operation
from orchestrator.protocol.messages.envelope import read
from orchestrator.protocol.messages.unwrapping import unwrap
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.testing.conformance.faults import (
    NotApplicable,
    fault,
    has_compensation,
    runs_an_operation,
    succeeds_without_fault,
)
from orchestrator.testing.conformance.injection import InjectedSteps, Injection, instrumented
from orchestrator.testing.conformance.scenario import Scenario, sent_to

_START_METHODS = multiprocessing.get_all_start_methods()


@fault(
    "worker killed inside step",
    "a process is killed with SIGKILL inside the step, before the commit of its effect: another one continues",
    runs_an_operation,
    succeeds_without_fault,
)
async def worker_killed_inside_step(scenario: Scenario) -> None:
    """The database rolls back the transaction of the lost connection."""
    await drive_and_be_killed(scenario, f"inside {scenario.work}")
    await scenario.drive()


@fault(
    "worker killed after step",
    "a process is killed with SIGKILL after the step's commit: another one continues",
    runs_an_operation,
)
async def worker_killed_after_step(scenario: Scenario) -> None:
    """The step returns its recorded result."""
    await drive_and_be_killed(scenario, f"after {scenario.work}")
    await scenario.drive()


@fault(
    "worker killed while undoing",
    "a process is killed with SIGKILL inside the compensation: another one undoes the rest",
    has_compensation,
    succeeds_without_fault,
)
async def worker_killed_while_undoing(scenario: Scenario) -> None:
    """The step stays done until its compensation is committed."""
    scenario.ending = "undone"
    await drive_and_be_killed(scenario, f"inside undo {scenario.number}", cancelled_after=f"after {scenario.work}")
    await scenario.drive()


@dataclass(frozen=True, slots=True)
class Task:
    """What the process drives, and the point at which it kills itself."""

    url: str
    remote_urls: Mapping[str, str]
    """URLs of the remote databases, by name."""
    orchestrator: tuple[str, str]
    """The class's module and name."""
    operations: Sequence[tuple[str, str]]
    """The module and the name of each operation."""
    envelope: str
    sent: Sequence[str]
    killed_at: str
    cancelled_after: str | None


async def drive_and_be_killed(scenario: Scenario, point: str, *, cancelled_after: str | None = None) -> None:
    """Drive the scenario's saga in a process that is killed at a point.

    Raises:
        NotApplicable: another process cannot import the orchestrator or an operation.
        FaultDidNotOccur: the process ended without being killed.
    """
    scenario.injection(f"process, killed {point}").descriptions.append(f"{point}: SIGKILL")
    orchestrator = scenario.orchestrator
    task = Task(
        url=_url(scenario.database),
        remote_urls={name: _url(database) for name, database in scenario.databases.others.items()},
        orchestrator=_importable(orchestrator.__module__, orchestrator.__name__, orchestrator),
        operations=[_location(scenario.catalog.operations[name]) for name in sorted(scenario.catalog.operations)],
        envelope=scenario.envelope().text,
        sent=[envelope.text for envelope in sent_to(scenario.example)],
        killed_at=point,
        cancelled_after=cancelled_after,
    )
    exit_code, message = await asyncio.to_thread(_run, task)
    scenario.require(
        exit_code == -signal.SIGKILL, f"the process was not killed {point}: exit code {exit_code}\n{message}"
    )


def _run(task: Task) -> tuple[int | None, str]:
    context = multiprocessing.get_context("forkserver" if "forkserver" in _START_METHODS else "spawn")
    modules = {__name__, task.orchestrator[0], *(module for module, _ in task.operations)}
    if "pytest" in sys.modules:
        modules.add("pytest")  # a child imports its parent's main module, which is pytest's
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(sorted(modules))
    receiver, sender = context.Pipe(duplex=False)
    process = cast(Any, context).Process(target=_drive_to_the_point, args=(task, sender), daemon=True)
    process.start()
    sender.close()
    try:
        message: str = receiver.recv()
    except EOFError:
        message = ""
    process.join(30)
    if process.exitcode is None:
        process.kill()
        process.join()
        message = "the process did not end within 30 s"
    exit_code: int | None = process.exitcode
    process.close()
    receiver.close()
    return exit_code, message


def _drive_to_the_point(task: Task, sender: Connection) -> None:
    """Run in the process that is to be killed."""
    try:
        asyncio.run(_drive(task))
        sender.send("the saga ended")
    except BaseException:
        sender.send(traceback.format_exc())
        raise


async def _drive(task: Task) -> None:
    module, name = task.orchestrator
    orchestrator: AnyOrchestrator = getattr(importlib.import_module(module), name)
    operations = [_load_operation(module, name) for module, name in task.operations]
    catalog = instrumented(Catalog.of(orchestrators=[orchestrator], operations=operations))
    envelope = read(task.envelope)
    injection = Injection()

    async def be_killed() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    injection.act_at(task.killed_at, be_killed, "SIGKILL")
    databases = Databases.at(task.url, task.remote_urls)
    steps = InjectedSteps(databases, catalog, injection, [read(text) for text in task.sent])
    driver = Driver(orchestrator, unwrap(envelope, *orchestrator.requests), envelope, steps)
    driving = asyncio.create_task(driver.drive())
    if task.cancelled_after is not None:
        gate = injection.pause_at(task.cancelled_after)
        await gate.reached.wait()
        driving.cancel()
    await driving


def _url(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


def _location(operation: Operation[..., Any]) -> tuple[str, str]:
    try:
        _load_operation(operation.module, operation.name)
    except LookupError:
        raise _not_importable(operation.name) from None
    return operation.module, operation.name


def _load_operation(module: str, name: str) -> Operation[..., Any]:
    loaded: dict[str, object] = vars(importlib.import_module(module))
    for value in loaded.values():
        if isinstance(value, Operation):
            operation = cast(Operation[..., Any], value)
            if operation.name == name:
                return operation
    raise LookupError(f"{module} has no operation {name}")


def _importable(module: str, name: str, value: object) -> tuple[str, str]:
    if getattr(sys.modules.get(module), name, None) is not value:
        raise _not_importable(name)
    return module, name


def _not_importable(name: str) -> NotApplicable:
    return NotApplicable(f"{name} is not defined at the top level of a module, so no other process can import it")
