"""`orchestrator worker`: runs every orchestrator and operation of the project, as a script with `Manager` does."""

from orchestrator.worker.process.command_line import Processes, WithSupervisor, check_options


def worker(processes: Processes = None, supervisor: WithSupervisor = True) -> int:
    """Run every orchestrator that the project declares, until Ctrl-C or SIGTERM drains it.

    The packages are those of ORCHESTRATOR_PACKAGES, or of `packages` in the table [tool.orchestrator] of
    pyproject.toml.

    \b
    Examples:
      orchestrator worker
      orchestrator worker --processes 4

    \b
    Exit codes: 0 drained, 1 a process had to be killed, 2 a definition fault or an invalid setting, 3 Temporal or a
    database cannot be reached, 4 a process without a supervisor was blocked, 70 a bug.
    """
    # Imported here, so that other commands need not load the worker.
    from orchestrator.worker import Manager
    from orchestrator.worker.process.supervisor import own_command

    manager = Manager()
    processes = processes or manager.settings.processes
    check_options(processes, supervisor)
    return manager.start(processes, supervisor, command=[*own_command(), "worker"])
