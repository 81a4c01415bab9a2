"""Commands for a person to paste, as they must be typed where this script was started."""

import sys
from pathlib import Path

from orchestrator.settings import Settings
from starter.show import as_typed


def commands_to_try(state_dir: Path, *, event_id: str | None = None) -> list[str]:
    """What can be done next with a server that runs on this state."""
    command = f"{_elsewhere(state_dir)}{as_typed(Path(sys.executable).with_name('orchestrator'))}"
    publish = f"{command} publish MONEY_TRANSFER_REQUESTED"
    return [
        *([f"{command} status {event_id}"] if event_id else []),
        f"{command} list",
        f'{publish} "$({publish} --example)" --follow',
    ]


def make_up(state_dir: Path) -> str:
    """The command that starts a server and a worker on this state."""
    return f"{_elsewhere(state_dir)}make up"


def _elsewhere(state_dir: Path) -> str:
    """The variable that other commands need to find a state folder which is not the usual one."""
    usual = Settings.model_fields["state_dir"].default
    return "" if state_dir.absolute() == Path(usual).absolute() else f"ORCHESTRATOR_STATE_DIR={state_dir.absolute()} "
