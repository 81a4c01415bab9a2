"""A worker that is killed: a process of its own, which drives a saga and sends itself SIGKILL at a point.

It is made by a fork server, so it shares nothing with the process of the test, and takes milliseconds all the same.
What it drives travels as names: orchestrator and operations must stand at the top of modules that it can import.
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
from orchestrator.protocol.envelope import read
from orchestrator.protocol.unwrapping import unwrap
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.testing.conformance.faults import NotApplicable
from orchestrator.testing.conformance.injection import InjectedSteps, Injection, instrumented
from orchestrator.testing.conformance.scenario import Stage, sent_to


@dataclass(frozen=True, slots=True)
class Task:
    """What the process is to do."""

    url: str
    others: Mapping[str, str]
    """URLs of the other databases, by name."""
    orchestrator: tuple[str, str]
    """Module and name."""
    operations: Sequence[tuple[str, str]]
    """Module and the operation's name."""
    envelope: str
    sent: Sequence[str]
    killed_at: str
    turned_back_after: str | None


async def drive_and_be_killed(stage: Stage, point: str, *, turned_back_after: str | None = None) -> None:
    """Drive the stage's saga in a process that is killed at this point.

    Raises:
        NotApplicable: another process cannot import what it should drive.
        Missed: it came to its end alive.
    """
    stage.injection(f"process, killed {point}").told.append(f"{point}: SIGKILL")
    task = Task(
        url=_url(stage.database),
        others={name: _url(database) for name, database in stage.databases.others.items()},
        orchestrator=_importable(stage.orchestrator.__module__, stage.orchestrator.__name__, stage.orchestrator),
        operations=[_place(stage.catalog.operations[name]) for name in sorted(stage.catalog.operations)],
        envelope=stage.envelope().text,
        sent=[envelope.text for envelope in sent_to(stage.example)],
        killed_at=point,
        turned_back_after=turned_back_after,
    )
    exit_code, told = await asyncio.to_thread(_run, task)
    stage.must(exit_code == -signal.SIGKILL, f"the process was not killed {point}: exit code {exit_code}\n{told}")


def _run(task: Task) -> tuple[int | None, str]:
    context = multiprocessing.get_context("forkserver" if "forkserver" in _METHODS else "spawn")
    modules = {
        "orchestrator.testing.conformance.killed_worker",
        task.orchestrator[0],
        *(module for module, _ in task.operations),
    }
    if "pytest" in sys.modules:
        modules.add("pytest")  # a child imports its parent's main module, which is pytest's
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(sorted(modules))
    ours, its = context.Pipe(duplex=False)
    process = cast(Any, context).Process(target=_drive_to_the_point, args=(task, its), daemon=True)
    process.start()
    its.close()
    try:
        told: str = ours.recv()
    except EOFError:
        told = ""
    process.join(30)
    if process.exitcode is None:
        process.kill()
        process.join()
        told = "it did not end within 30 s"
    exit_code: int | None = process.exitcode
    process.close()
    ours.close()
    return exit_code, told


_METHODS = multiprocessing.get_all_start_methods()


def _drive_to_the_point(task: Task, told: Connection) -> None:
    """What runs in the process."""
    try:
        asyncio.run(_drive(task))
        told.send("it came to the saga's end")
    except BaseException:
        told.send(traceback.format_exc())
        raise


async def _drive(task: Task) -> None:
    module, name = task.orchestrator
    orchestrator: AnyOrchestrator = getattr(importlib.import_module(module), name)
    operations = [_found(module, name) for module, name in task.operations]
    catalog = instrumented(Catalog.of(orchestrators=[orchestrator], operations=operations))
    envelope = read(task.envelope)
    injection = Injection()

    async def be_killed() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    injection.act(task.killed_at, be_killed, "SIGKILL")
    steps = InjectedSteps(Databases.at(task.url, task.others), catalog, injection, [read(text) for text in task.sent])
    driver = Driver(orchestrator, unwrap(envelope, *orchestrator.requests), envelope, steps)
    driving = asyncio.create_task(driver.drive())
    if task.turned_back_after is not None:
        gate = injection.stops(task.turned_back_after)
        await gate.reached.wait()
        driving.cancel()
    await driving


def _url(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


def _place(operation: Operation[..., Any]) -> tuple[str, str]:
    try:
        _found(operation.module, operation.name)
    except LookupError:
        raise NotApplicable(
            f"{operation.name} does not stand at the top of a module, so no other process can import it"
        ) from None
    return operation.module, operation.name


def _found(module: str, name: str) -> Operation[..., Any]:
    loaded: dict[str, object] = vars(importlib.import_module(module))
    for value in loaded.values():
        if isinstance(value, Operation):
            operation = cast(Operation[..., Any], value)
            if operation.name == name:
                return operation
    raise LookupError(f"{module} has no operation {name}")


def _importable(module: str, name: str, value: object) -> tuple[str, str]:
    if getattr(sys.modules.get(module), name, None) is not value:
        raise NotApplicable(f"{name} does not stand at the top of a module, so no other process can import it")
    return module, name
