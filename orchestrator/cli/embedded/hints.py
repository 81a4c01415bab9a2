"""Commands to copy and paste, in the form in which they are typed in the shell that started this process."""

import sys
from pathlib import Path

from orchestrator.cli.terminal.invocation import script_command
from orchestrator.settings import Settings


def commands_for(state_dir: Path, *, event_type: str = "", event_id: str | None = None) -> list[str]:
    """Return the commands to try next with a server that runs on this state folder.

    Args:
        state_dir: the state folder.
        event_type: the type of an event that starts a saga, or an empty string.
        event_id: the id of an event whose status to show, or None.
    """
    command = f"{elsewhere(state_dir)}{script_command(Path(sys.executable).with_name('orchestrator'))}"
    publish = f"{command} publish {event_type}"
    return [
        *([f"{command} status {event_id}"] if event_id else []),
        f"{command} list",
        *([f'{publish} "$({publish} --example)" --follow'] if event_type else []),
    ]


def elsewhere(state_dir: Path) -> str:
    """Return the variable with which other commands find a state folder. Empty for the project's own folder."""
    own = Settings.state_dir_of_project()
    return "" if state_dir.absolute() == own.absolute() else f"ORCHESTRATOR_STATE_DIR={state_dir.absolute()} "
