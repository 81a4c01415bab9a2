"""`orchestrator contracts`: compares the code's events with their published contracts, without any server."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.terminal.exit_codes import Exit
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.options import AsJson
from orchestrator.cli.terminal.output import Output
from orchestrator.contracts.lock import Finding, accept, findings, read_lock
from orchestrator.definition.catalog import Catalog
from orchestrator.definition.names import check_names
from orchestrator.settings import Settings

_SHOWN_LINES = 40
"""The maximum number of lines of a difference to show."""


def contracts(
    accepted: Annotated[
        bool, typer.Option("--accept", help="Publish new and compatible contracts by writing them to the file.")
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="The file of published contracts. ORCHESTRATOR_CONTRACTS sets the default."),
    ] = None,
    payloads: Annotated[
        Path | None,
        typer.Option(
            "--payloads",
            help="The folder of stored events that the code must still be able to read. ORCHESTRATOR_PAYLOADS sets the "
            "default.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Check the events' names, that they match their published contracts, and that stored events can still be read.

    \b
    Examples:
      orchestrator contracts
      orchestrator contracts --accept
    """
    output = Output(as_json)
    settings = Settings()
    file, payloads = file or settings.contracts, payloads or settings.payloads
    catalog = Catalog.discover(settings.packages)
    check_names(catalog)
    published = read_lock(file)
    problems = accept(catalog, published, file, payloads) if accepted else findings(catalog, published, payloads)
    if as_json:
        output.document({"findings": [finding_json(problem) for problem in problems]})
    elif problems:
        print_findings(problems, output, is_accepting=accepted)
    else:
        output.line(f"{len(catalog.events)} events {'are published' if accepted else 'match their contracts'}.")
    return Exit.FAILED if problems else Exit.COMPLETED


def print_findings(problems: list[Finding], output: Output, *, is_accepting: bool = False) -> None:
    """Print differences between published contracts and the code, and how to accept them if that is possible."""
    for finding in problems:
        text = f"{finding.event_type} {finding.text}.".replace("..", ".")
        output.line(text, style="bold" if finding.is_refused else "")
        lines = finding.difference.splitlines()
        for line in lines[:_SHOWN_LINES]:
            output.line(f"  {line}")
        if len(lines) > _SHOWN_LINES:
            output.line(f"  ... {len(lines) - _SHOWN_LINES} more lines")
    if not is_accepting and not any(problem.is_refused for problem in problems):
        output.line()
        output.line(f"To accept these changes: {command('contracts', '--accept')}")


def finding_json(finding: Finding) -> dict[str, object]:
    """Return a difference as a JSON object, for programs."""
    return {
        "event": finding.event_type,
        "text": finding.text,
        "refused": finding.is_refused,
        "difference": finding.difference,
    }
