"""Assembles all commands into the application `orchestrator`, with its help."""

from importlib.metadata import version
from typing import Annotated

import typer

from orchestrator.cli.database.locks import locks
from orchestrator.cli.database.outbox import outbox
from orchestrator.cli.database.purge import purge
from orchestrator.cli.dead_letters.commands import dead_letters
from orchestrator.cli.events.catalog import catalog, diagram
from orchestrator.cli.events.contracts import contracts
from orchestrator.cli.events.events import events
from orchestrator.cli.events.publish import publish
from orchestrator.cli.project.check import check
from orchestrator.cli.project.dev import dev
from orchestrator.cli.project.new import new
from orchestrator.cli.project.worker import worker
from orchestrator.cli.sagas.cancel import cancel
from orchestrator.cli.sagas.listing import list_
from orchestrator.cli.sagas.recover import recover
from orchestrator.cli.sagas.retry import retry
from orchestrator.cli.sagas.skip import skip
from orchestrator.cli.sagas.status import status
from orchestrator.cli.terminal.output import Output
from orchestrator.settings import DISTRIBUTION

app = typer.Typer(
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        Output().raw(f"orchestrator {version(DISTRIBUTION)}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def orchestrator(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> int:
    """Publish domain events, see what became of their sagas, and act on sagas that need a person.

    \b
    Examples:
      orchestrator events                                           the events, and who listens to them
      orchestrator catalog                                          which event starts what; `diagram NAME` draws one
      orchestrator new my-shop                                      create a small project with tests
      orchestrator dev                                              a server, a database and a worker in one terminal
      orchestrator worker                                           run every orchestrator of the project
      orchestrator check                                            every fault in definitions and contracts, no server
      orchestrator contracts                                        check events against their published contracts
      orchestrator publish MONEY_TRANSFER_REQUESTED --example       print a payload to start from
      orchestrator publish MONEY_TRANSFER_REQUESTED '{...}' --follow
      orchestrator status EVENT_ID                                  the event's sagas, and why one is not done
      orchestrator list                                             the newest sagas; --stuck: those that need a person
      orchestrator locks [KEY]                                      held locks, their holders, and who waits for them
      orchestrator outbox                                           events that are not sent yet, and why
      orchestrator retry EVENT_ID                                   immediately retry whatever the saga waits to retry
      orchestrator skip EVENT_ID STEP --reason TEXT                 continue without a step that cannot be undone
      orchestrator cancel EVENT_ID                                  undo a saga; shows the plan and asks first
      orchestrator recover --dry-run                                sagas without a driver, and what recovery would do
      orchestrator purge --dry-run                                  old data that would be deleted
      orchestrator dead-letters                                     messages that could not be read: edit and replay

    \b
    Exit codes: 0 completed, 1 failed or cancelled, 2 misuse, 3 Temporal or the database cannot be reached,
    4 not finished (within the timeout), 70 a bug, 74 the answer could not be written to stdout, 130 stopped by Ctrl-C.
    Run it in the application's folder.
    """
    if context.invoked_subcommand is None:
        Output().raw(context.get_help())
        return 2
    return 0


app.command("new")(new)
app.command("dev")(dev)
app.command("worker")(worker)
app.command("check")(check)
app.command("publish")(publish)
app.command("events")(events)
app.command("catalog")(catalog)
app.command("diagram")(diagram)
app.command("contracts")(contracts)
app.command("status")(status)
app.command("list")(list_)
app.command("locks")(locks)
app.command("outbox")(outbox)
app.command("retry")(retry)
app.command("skip")(skip)
app.command("cancel")(cancel)
app.command("recover")(recover)
app.command("purge")(purge)
app.add_typer(dead_letters, name="dead-letters")
