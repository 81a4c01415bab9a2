"""`orchestrator catalog` and `orchestrator diagram`: documents made from the code. Ask no server."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.terminal.exit_codes import Exit
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.output import Output
from orchestrator.definition.catalog import Catalog
from orchestrator.settings import Settings

_FOLDER = Path("docs/catalog")


def catalog(
    writes: Annotated[bool, typer.Option("--write", help="Write the files into the folder.")] = False,
    checks: Annotated[bool, typer.Option("--check", help="Fail if the folder is not what the code says.")] = False,
    folder: Annotated[Path, typer.Option("--folder", help="Where the files are.")] = _FOLDER,
    title: Annotated[str | None, typer.Option("--title", help="The application's name.")] = None,
) -> int:
    """Show which event starts which orchestrator, with its operations, tables and outcomes.

    \b
    Examples:
      orchestrator catalog
      orchestrator catalog --write
      orchestrator catalog --check
    """
    # Here, not above: no other command waits for what walks orchestrators.
    from orchestrator.documents.pages import files_of, page, stale, write

    output = Output()
    settings = Settings()
    title = title or settings.title or Path.cwd().name
    found = Catalog.discover(settings.packages)
    if not (writes or checks):
        output.say(page(found, title))
        return Exit.COMPLETED
    files = files_of(found, title=title, version="1.0.0")
    if writes:
        write(files, folder)
        output.say(f"{len(files)} files in {folder}.")
    elif wrong := stale(files, folder):
        output.say(f"{folder} is not what the code says: {', '.join(wrong)}. Write it: {command('catalog', '--write')}")
        return Exit.FAILED
    return Exit.COMPLETED


def diagram(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An orchestrator, e.g. MoneyTransfer.")],
) -> int:
    """Print an orchestrator's diagram, for Mermaid.

    \b
    Examples:
      orchestrator diagram MoneyTransfer
    """
    from orchestrator.documents.diagram import diagram_of

    found = Catalog.discover(Settings().packages)
    orchestrator = found.orchestrators.get(name)
    if orchestrator is None:
        raise typer.BadParameter(
            f"no orchestrator {name} is here; there are {', '.join(found.orchestrators) or 'none'}"
        )
    Output().raw(diagram_of(found, orchestrator))
    return Exit.COMPLETED
