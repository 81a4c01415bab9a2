"""Commands for a person to paste, in the form that works in the folder where this script was started."""

import sys
from pathlib import Path

from orchestrator.settings import Settings
from starter.show import as_typed


def commands_to_try(state_dir: Path, *, event_id: str | None = None) -> list[str]:
    """Return commands to try with a server that runs on this state folder."""
    command = f"{_state_variable(state_dir)}{as_typed(Path(sys.executable).with_name('orchestrator'))}"
    publish = f"{command} publish MONEY_TRANSFER_REQUESTED"
    return [
        *([f"{command} status {event_id}"] if event_id else []),
        f"{command} list",
        f'{publish} "$({publish} --example)" --follow',
    ]


def make_up(state_dir: Path) -> str:
    """Return the command that starts a server and a worker on this state folder."""
    return f"{_state_variable(state_dir)}make up"


def _state_variable(state_dir: Path) -> str:
    """Return the variable with which other commands find the state folder, or nothing for the default folder."""
    default = Settings.model_fields["state_dir"].default
    return "" if state_dir.absolute() == Path(default).absolute() else f"ORCHESTRATOR_STATE_DIR={state_dir.absolute()} "
