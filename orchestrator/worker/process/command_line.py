"""The options of a worker, and the command line of a script that runs one, such as `python worker.py`."""

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

Processes = Annotated[
    int | None, typer.Option(min=1, help="Number of worker processes. ORCHESTRATOR_PROCESSES sets the default.")
]
WithSupervisor = Annotated[
    bool,
    typer.Option(
        "--supervisor/--no-supervisor",
        help="Replace a process that dies or hangs. Without a supervisor, work in this process.",
    ),
]


def check_options(processes: int, supervisor: bool) -> None:
    """Check that the options fit together.

    Raises:
        typer.BadParameter: several processes were requested without a supervisor.
    """
    if processes > 1 and not supervisor:
        raise typer.BadParameter(
            f"--no-supervisor runs one process, but {processes} were requested. Remove it, or add --processes 1"
        )


def run_command(
    work: Callable[[int, bool], int], arguments: Sequence[str] | None, *, program: str, processes: int
) -> None:
    """Read the options, do the work, and exit the process with its exit code, or with 2 if an option is wrong.

    Args:
        work: the function to run. It receives the number of processes and whether to run a supervisor, and returns the
            exit code.
        arguments: the command-line arguments, by default this process's.
        program: the program's name in the help.
        processes: the default number of processes.
    """
    default = processes
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @command.command(help="Find, check, register and run every orchestrator, until Ctrl-C or SIGTERM drains it.")
    def worker(  # pyright: ignore[reportUnusedFunction]
        processes: Processes = None, supervisor: WithSupervisor = True
    ) -> None:
        number = processes or default
        check_options(number, supervisor)
        raise typer.Exit(work(number, supervisor))

    command(args=None if arguments is None else list(arguments), prog_name=program)
