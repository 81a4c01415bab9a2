"""`make demo`: a server, a worker, the story, links into the Web UI, and what to type next.

On a terminal it stays up until Ctrl-C; elsewhere it stops everything and ends.
"""

from orchestrator.client import EventBus, ui_link
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from starter.hints import commands_to_try, make_up
from starter.process import run_script, settings_or_exit
from starter.show import Show
from starter.stack import Stack
from starter.story import Story


async def demo(settings: Settings) -> int:
    """Play, then stay for as long as there is somebody to look."""
    show = Show()
    async with Stack(settings, show) as stack:
        worker = await stack.start_worker()
        show.step(f"A worker is ready (process {worker.pid}): it runs every orchestrator in workflows/")
        database = Database(stack.settings.resolved_database_url)
        try:
            played = Story(stack, await EventBus.connect(stack.settings), database, worker)
            await played.play()
        finally:
            await database.close()
        _say_where_to_look(stack, played)
        if show.is_terminal:
            show.plain("The server and the worker stay up for you. Ctrl-C stops both; the state stays.")
            await stack.stay()
    show.step("Stopped; nothing is left running.")
    return 0


def _say_where_to_look(stack: Stack, played: Story) -> None:
    show = stack.show
    namespace = played.bus.client.namespace
    show.heading("In the Web UI" if show.is_terminal else f"In the Web UI, once `{_make_up(stack)}` runs")
    for name in ("completed", "undone", "reset", "survived"):
        handle = played.links[name]
        show.plain(f"  {name:<10} {ui_link(stack.settings, namespace, handle.workflow_id, handle.run_id)}")
    show.heading(
        "Next, in another terminal" if show.is_terminal else f"Next: `{_make_up(stack)}`, and in another terminal"
    )
    for command in commands_to_try(stack.settings.state_dir, event_id=played.links["survived"].event_id):
        show.plain(f"  {command}")
    show.plain()


def _make_up(stack: Stack) -> str:
    return make_up(stack.settings.state_dir)


if __name__ == "__main__":
    # SQLite in the state folder, whatever database the environment names: this one invents accounts.
    _settings = settings_or_exit(database_url="")
    run_script(lambda: demo(_settings), log=_settings.state_dir / "demo.log")
