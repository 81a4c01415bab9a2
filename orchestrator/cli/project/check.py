"""`orchestrator check`: reports every fault that can be found without a server, for CI and pre-commit hooks."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import asdict

from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from orchestrator.cli.events.contracts import finding_json, print_findings
from orchestrator.cli.terminal.exit_codes import Exit
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.options import AsJson
from orchestrator.cli.terminal.output import Output
from orchestrator.contracts.lock import Finding, findings, read_lock
from orchestrator.definition.catalog import Catalog
from orchestrator.definition.checks.application import check_application
from orchestrator.definition.names import check_names
from orchestrator.errors import DefinitionError
from orchestrator.settings import Settings
from orchestrator.workflow.hosts import hosts_of, sandbox_faults, sandbox_for


def check(as_json: AsJson = False) -> int:
    """Report every fault in what the application declares, without any server.

    Definition faults come first, with file and line, because they would keep a worker from starting. If there are none,
    the events are compared with their published contracts.

    \b
    Examples:
      orchestrator check
      orchestrator check --json

    \b
    Exit codes: 0 no fault, 1 an event differs from its published contract, 2 a definition fault or an invalid setting.
    """
    output, settings = Output(as_json), Settings()
    try:
        catalog = check_application(settings.packages, settings.databases)
        check_names(catalog)
        _check_sandbox(catalog)
    except DefinitionError as fault:
        _print_faults(fault, output)
        return Exit.MISUSE
    is_published = settings.contracts.exists()
    differences = findings(catalog, read_lock(settings.contracts), settings.payloads) if is_published else []
    if as_json:
        output.document({"problems": [], "findings": [finding_json(finding) for finding in differences]})
    elif differences:
        print_findings(differences, output)
    else:
        _print_success(catalog, output, is_published=is_published)
    return Exit.FAILED if differences else Exit.COMPLETED


def _check_sandbox(catalog: Catalog) -> None:
    """Load each orchestrator's module in Temporal's sandbox, as a starting worker does.

    Raises:
        DefinitionError: a module cannot be loaded there.
    """

    async def no_histories() -> AsyncGenerator[WorkflowHistory]:
        for history in list[WorkflowHistory]():
            yield history

    async def load() -> None:
        replayer = Replayer(workflows=hosts_of(catalog), workflow_runner=sandbox_for(catalog))
        async with replayer.workflow_replay_iterator(no_histories()):
            pass

    if not catalog.orchestrators:
        return
    with sandbox_faults(catalog):
        asyncio.run(load())


def _print_faults(fault: DefinitionError, output: Output) -> None:
    if output.as_json:
        output.document({"problems": [asdict(problem) for problem in fault.problems], "findings": list[Finding]()})
        return
    count = len(fault.problems)
    output.line("1 definition fault:" if count == 1 else f"{count} definition faults:", style="red")
    for line in fault.lines:
        output.line(line)


def _print_success(catalog: Catalog, output: Output, *, is_published: bool) -> None:
    numbers = (
        (len(catalog.orchestrators), "orchestrator"),
        (len(catalog.operations), "operation"),
        (len(catalog.events), "event"),
    )
    counted = ", ".join(f"{number} {noun}{'' if number == 1 else 's'}" for number, noun in numbers)
    output.line(f"No fault found in {counted}.")
    if not is_published:
        output.line(f"No contract of an event is published yet. To publish: {command('contracts', '--accept')}")
