"""`make up`: Temporal's development server and a worker on the same state, until Ctrl-C."""

from orchestrator.cli.embedded.script import run_script, settings_or_exit
from orchestrator.cli.embedded.show import Show
from orchestrator.settings import Settings
from starter.hints import commands_to_try
from starter.stack import smartexpense_stack

_LOG = "up.log"


async def up(settings: Settings) -> int:
    """Run a server and a worker until Ctrl-C or SIGTERM."""
    show = Show()
    async with smartexpense_stack(settings, show) as stack:
        worker = await stack.start_worker()
        show.good(f"The worker (process {worker.pid}) is ready.")
        show.heading("Web UI")
        show.plain(f"  {stack.server.ui_url}")
        show.heading("In another terminal, in this folder")
        for command in commands_to_try(settings.state_dir):
            show.plain(f"  {command}")
        show.plain()
        show.plain("Ctrl-C stops both; the state is kept.")
        await stack.stay()
    show.step("Stopped.")
    return 0


if __name__ == "__main__":
    _settings = settings_or_exit()
    run_script(lambda: up(_settings), log=_settings.state_dir / _LOG)
