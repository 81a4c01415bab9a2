"""`orchestrator catalog` and `orchestrator diagram`: documents generated from the code, without any server."""

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
    checks: Annotated[bool, typer.Option("--check", help="Fail if the files differ from the code.")] = False,
    folder: Annotated[Path, typer.Option("--folder", help="The folder of the files.")] = _FOLDER,
    title: Annotated[str | None, typer.Option("--title", help="The application's name.")] = None,
) -> int:
    """Show which event starts which orchestrator, with its operations, tables and outcome events.

    \b
    Examples:
      orchestrator catalog
      orchestrator catalog --write
      orchestrator catalog --check
    """
    # Imported here, so that other commands need not load the code that walks orchestrators.
    from orchestrator.documents.pages import files_of, page, stale, write

    output = Output()
    settings = Settings()
    title = title or settings.title or Path.cwd().name
    declared = Catalog.discover(settings.packages)
    if not (writes or checks):
        output.line(page(declared, title))
        return Exit.COMPLETED
    files = files_of(declared, title=title, version="1.0.0")
    if writes:
        write(files, folder)
        output.line(f"{len(files)} files were written to {folder}.")
    elif outdated := stale(files, folder):
        output.line(
            f"These files in {folder} differ from the code: {', '.join(outdated)}. To update them: "
            f"{command('catalog', '--write')}"
        )
        return Exit.FAILED
    return Exit.COMPLETED


def diagram(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The orchestrator's name, e.g. MoneyTransfer.")],
) -> int:
    """Print an orchestrator's diagram as Mermaid source.

    \b
    Examples:
      orchestrator diagram MoneyTransfer
    """
    from orchestrator.documents.diagram import diagram_of

    declared = Catalog.discover(Settings().packages)
    orchestrator = declared.orchestrators.get(name)
    if orchestrator is None:
        raise typer.BadParameter(
            f"There is no orchestrator {name}. Known orchestrators: {', '.join(declared.orchestrators) or 'none'}"
        )
    Output().raw(diagram_of(declared, orchestrator))
    return Exit.COMPLETED
