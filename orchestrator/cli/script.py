"""The console script `orchestrator`: loads the commands, and runs the one that was typed."""

import gc
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line of this process, and leave it."""
    # What is loaded stays: walking it again and again meanwhile was a fifth of a command's start.
    gc.disable()
    from orchestrator.cli.main import main as run_command_line

    gc.freeze()
    gc.enable()
    run_command_line()
