"""SmartExpense in the embedded mode: the server and its workers, each of which runs the application's `worker.py`."""

import sys
from pathlib import Path

from orchestrator.cli.embedded.show import Show
from orchestrator.cli.embedded.stack import Stack
from orchestrator.settings import Settings
from starter.hints import commands_to_try

ROOT = Path(__file__).resolve().parent.parent


def smartexpense_stack(settings: Settings, show: Show) -> Stack:
    """Return the stack, to be used as a context manager."""
    return Stack(
        settings,
        show,
        worker=[sys.executable, str(ROOT / "worker.py"), "--no-supervisor"],
        folder=ROOT,
        commands=commands_to_try(settings.state_dir),
    )
