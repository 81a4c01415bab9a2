"""`make demo`: a server, a worker, the story, links into the Web UI, and commands to try next.

In a terminal it keeps the server and the worker running until Ctrl-C; elsewhere it stops everything and exits.
"""

from orchestrator.cli.embedded.script import run_script, settings_or_exit
from orchestrator.cli.embedded.show import Show
from orchestrator.cli.embedded.stack import Stack
from orchestrator.client import EventBus, ui_link
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from starter.demo.run import DemoRun
from starter.demo.story import play
from starter.hints import commands_to_try, make_up
from starter.stack import smartexpense_stack


async def demo(settings: Settings) -> int:
    """Run the story, then keep the server and the worker running for as long as there is a terminal."""
    show = Show()
    async with smartexpense_stack(settings, show) as stack:
        worker = await stack.start_worker()
        show.step(f"A worker is ready (process {worker.pid}): it runs every orchestrator in workflows/")
        database = Database(stack.settings.resolved_database_url)
        try:
            run = DemoRun(stack, await EventBus.connect(stack.settings), database, worker)
            await play(run)
        finally:
            await database.close()
        _show_links_and_commands(stack, run)
        if show.is_terminal:
            show.plain("The server and the worker stay up for you. Ctrl-C stops both; the state is kept.")
            await stack.stay()
    show.step("Stopped; nothing is left running.")
    return 0


def _show_links_and_commands(stack: Stack, run: DemoRun) -> None:
    show = stack.show
    namespace = run.bus.client.namespace
    show.heading("In the Web UI" if show.is_terminal else f"In the Web UI, while `{_make_up(stack)}` is running")
    for name in ("completed", "undone", "reset", "survived"):
        handle = run.links[name]
        show.plain(f"  {name:<10} {ui_link(stack.settings, namespace, handle.workflow_id, handle.run_id)}")
    show.heading(
        "Next, in another terminal" if show.is_terminal else f"Next: `{_make_up(stack)}`, and in another terminal"
    )
    for command in commands_to_try(stack.settings.state_dir, event_id=run.links["survived"].event_id):
        show.plain(f"  {command}")
    show.plain()


def _make_up(stack: Stack) -> str:
    return make_up(stack.settings.state_dir)


if __name__ == "__main__":
    # A SQLite file in the state folder, whatever database the environment names, because the demo invents accounts.
    _settings = settings_or_exit(database_url="")
    run_script(lambda: demo(_settings), log=_settings.state_dir / "demo.log")
