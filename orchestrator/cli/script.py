"""The console script `orchestrator`: imports the commands and runs one of them."""

import gc
from typing import NoReturn


def main() -> NoReturn:
    """Run the command given on this process's command line, then exit."""
    # Imported modules are never freed, so scanning them during the imports would waste a fifth of a command's start
    # time.
    gc.disable()
    from orchestrator.cli.main import main as run_command_line

    gc.freeze()
    gc.enable()
    run_command_line()
