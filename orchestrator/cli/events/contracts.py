"""`orchestrator contracts`: the code's events held against what was published. Asks no server."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.terminal.exit_codes import Exit
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.output import Output
from orchestrator.contracts.lock import Finding, accept, findings, read_lock
from orchestrator.definition.catalog import Catalog
from orchestrator.definition.names import check_names
from orchestrator.settings import Settings

_REFUSED_LINES = 40


def contracts(
    accepted: Annotated[
        bool, typer.Option("--accept", help="Publish what is new and compatible: write it into the file.")
    ] = False,
    file: Annotated[Path, typer.Option("--file", help="The published schemas.")] = Path("events/contracts.json"),
    payloads: Annotated[Path, typer.Option("--payloads", help="Kept samples of stored events.")] = Path(
        "tests/payloads"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")] = False,
) -> int:
    """Check events: their names, that they keep to their published contracts, and that what was stored can be read.

    \b
    Examples:
      orchestrator contracts
      orchestrator contracts --accept
    """
    output = Output(as_json)
    catalog = Catalog.discover(Settings().packages)
    check_names(catalog)
    published = read_lock(file)
    found = accept(catalog, published, file, payloads) if accepted else findings(catalog, published, payloads)
    if as_json:
        output.document({"findings": [_document(one) for one in found]})
    elif found:
        _show(found, output)
        if not accepted and not any(one.is_refused for one in found):
            output.say()
            output.say(f"Accept: {command('contracts', '--accept')}")
    else:
        output.say(f"{len(catalog.events)} events {'are published' if accepted else 'keep to their contracts'}.")
    return Exit.FAILED if found else Exit.COMPLETED


def _show(found: list[Finding], output: Output) -> None:
    for one in found:
        output.say(f"{one.event_type} {one.text}.".replace("..", "."), style="bold" if one.is_refused else "")
        lines = one.difference.splitlines()
        for line in lines[:_REFUSED_LINES]:
            output.say(f"  {line}")
        if len(lines) > _REFUSED_LINES:
            output.say(f"  ... {len(lines) - _REFUSED_LINES} lines more")


def _document(one: Finding) -> dict[str, object]:
    return {
        "event": one.event_type,
        "text": one.text,
        "refused": one.is_refused,
        "difference": one.difference,
    }
