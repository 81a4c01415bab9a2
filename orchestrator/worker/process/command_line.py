"""The options of `python worker.py`."""

from collections.abc import Callable, Sequence
from typing import Annotated

import typer


def run_command(
    work: Callable[[int, bool], int], arguments: Sequence[str] | None, *, program: str, processes: int
) -> None:
    """Read the options, do the work, and leave the process with its exit code; 2 where an option is wrong.

    Args:
        work: takes how many processes, and whether under a supervisor; returns the exit code.
        arguments: by default this process's.
        program: its name in the help.
        processes: how many if no option says so.
    """
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @command.command(help="Find, check, register and run every orchestrator, until Ctrl-C or SIGTERM drains it.")
    def worker(  # pyright: ignore[reportUnusedFunction]
        processes: Annotated[
            int, typer.Option(min=1, help="Worker processes; ORCHESTRATOR_PROCESSES says the default.")
        ] = processes,
        supervisor: Annotated[
            bool, typer.Option(help="Follow up a process that dies or stands still. Without: work in this process.")
        ] = True,
    ) -> None:
        if processes > 1 and not supervisor:
            raise typer.BadParameter("--no-supervisor is for one process")
        raise typer.Exit(work(processes, supervisor))

    command(args=None if arguments is None else list(arguments), prog_name=program)
