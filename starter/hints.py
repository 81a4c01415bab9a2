"""Commands for a person to paste, in the form that works in the folder where this script was started."""

from pathlib import Path

from orchestrator.cli.embedded.hints import commands_for, elsewhere


def commands_to_try(state_dir: Path, *, event_id: str | None = None) -> list[str]:
    """Return commands to try with a server that runs on this state folder."""
    return commands_for(state_dir, event_type="MONEY_TRANSFER_REQUESTED", event_id=event_id)


def make_up(state_dir: Path) -> str:
    """Return the command that starts a server and a worker on this state folder."""
    return f"{elsewhere(state_dir)}make up"
