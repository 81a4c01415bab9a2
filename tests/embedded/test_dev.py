"""`orchestrator dev` as an author uses it: in a new project, in a terminal, with code that changes and breaks."""

import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.cli.shell import SCRIPT, Ran, Shell, ended
from tests.embedded.processes import eventually, processes_with
from tests.embedded.terminal import PATIENCE, Terminal
from tests.embedded.terminal import terminal as in_terminal

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
    pytest.mark.timeout(3 * PATIENCE),
]
READY = "Ctrl-C stops everything."
CHEAP = '{"customer": "ada", "item": "tent", "price": 9000}'
EXPENSIVE = '{"customer": "ada", "item": "boat", "price": 90000}'


@pytest.fixture
async def project(tmp_path: Path) -> Path:
    """A new project."""
    created = await Shell({}, tmp_path).run("new", "shop")
    assert created.code == 0, created
    return tmp_path / "shop"


def mark_of(project: Path) -> str:
    return f"STARTED_FOR={project}"


def dev(project: Path, *arguments: str, **variables: str) -> AbstractContextManager[Terminal]:
    mark, _, value = mark_of(project).partition("=")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("ORCHESTRATOR_", "TEMPORAL_"))}
    environment: Mapping[str, str] = {**kept, mark: value, "TERM": "dumb", **variables}
    command = [sys.executable, str(SCRIPT), "dev", *arguments]
    return in_terminal(command, environment, project, variable=mark_of(project))


def left_behind(project: Path) -> dict[int, str]:
    return processes_with(mark_of(project))


async def publish(shell: Shell, payload: str) -> Ran:
    publishing = await shell.start("publish", "ORDER_PLACED", payload, "--timeout", str(PATIENCE), "--json")
    return await ended(publishing, seconds=PATIENCE)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


async def test_an_author_runs_changes_breaks_and_repairs_a_project_in_one_terminal(project: Path) -> None:
    # Its own copy of the code, because the project's is broken for a while.
    client = Shell({"ORCHESTRATOR_STATE_DIR": str(project / ".orchestrator")}, project.parent / "client")
    shutil.copytree(project, client.folder)
    with dev(project) as author:
        await author.until(READY)
        assert re.search(r"http://127.0.0.1:\d+", author.output)
        assert "publish ORDER_PLACED" in author.output

        refused = await publish(client, EXPENSIVE)
        assert refused.code == 1, refused
        await author.until(f"failed    Order  {refused.document['event_id']}  payments.limit_exceeded")

        edit(project / "shop" / "order.py", "await saga", "awaits saga")
        await author.until("continues with the old code")
        assert "shop/order.py:14  cannot be imported, SyntaxError" in author.output
        meanwhile = await publish(client, CHEAP)
        assert meanwhile.code == 0, meanwhile
        await author.until(f"completed Order  {meanwhile.document['event_id']}")

        author.output = ""
        edit(project / "shop" / "order.py", "awaits saga", "await saga")
        await author.until("Reloaded in")
        author.type("\x03")

        assert await author.end() == 0

    assert "nothing is left running" in author.output
    assert left_behind(project) == {}
    assert not (project / ".orchestrator" / "running.json").exists()
    assert (project / ".orchestrator" / ".gitignore").read_text() == "*\n"


@pytest.mark.exhaustive
async def test_a_project_that_is_broken_at_first_runs_once_it_is_repaired(project: Path) -> None:
    edit(project / "shop" / "stock.py", "@reserve.compensation\n", "")
    with dev(project) as author:
        await author.until("Correct it and save")
        assert "shop/stock.py:18  reserve has no compensation" in author.output

        edit(project / "shop" / "stock.py", "async def release", "@reserve.compensation\nasync def release")
        await author.until("Reloaded in")
        author.type("\x03")

        assert await author.end() == 0
    assert left_behind(project) == {}


@pytest.mark.exhaustive
async def test_with_postgresql_the_command_line_finds_its_sagas_and_a_kill_leaves_nothing_behind(project: Path) -> None:
    shell = Shell({}, project)
    with dev(project, "--postgres") as author:
        await author.until(READY)
        published = await publish(shell, CHEAP)
        listed = await shell.run("list", "--json")
        author.process.send_signal(signal.SIGKILL)
        assert await author.end() == -signal.SIGKILL

        # PostgreSQL ends its other processes when their parent is gone.
        await eventually(lambda: left_behind(project) == {})

    assert published.code == 0, published
    assert [saga["event_id"] for saga in listed.document["sagas"]] == [published.document["event_id"]]
    assert not (project / ".orchestrator" / "application.db").exists()
    with dev(project, "--postgres") as author:
        await author.until(READY)
        again = await shell.run("list", "--json")
        author.type("\x03")
        assert await author.end() == 0
    assert again.document["sagas"] == listed.document["sagas"]
    assert left_behind(project) == {}


@pytest.mark.exhaustive
async def test_a_second_one_in_the_same_folder_says_how_to_use_the_first(project: Path) -> None:
    with dev(project) as first:
        await first.until("Temporal is at")
        with dev(project) as second:
            assert await second.end() == 1

            assert "A Temporal server is running on" in second.output
            assert "orchestrator list" in second.output
        first.process.send_signal(signal.SIGTERM)
        await first.end()
    assert left_behind(project) == {}
