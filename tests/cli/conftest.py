"""Fixtures for tests of the command line: shells, and SmartExpense with a worker process on the real server."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from temporalio.testing import WorkflowEnvironment

from events.account import MoneyTransferRequested
from orchestrator.store.core.database import Database
from starter.seed import seed
from tests.cli.shell import Shell
from tests.house import House


def a_transfer(**changes: Any) -> str:
    """The example's payload with some fields changed; a field that is None is left out."""
    fields = {**MoneyTransferRequested.example().model_dump(mode="json"), **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not None})


@pytest.fixture
def nowhere(tmp_path: Path) -> Shell:
    """A shell without a server and without a database: nothing listens at its port, and its folder is empty."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
    return Shell(
        {
            "TEMPORAL_ADDRESS": f"127.0.0.1:{port}",
            "ORCHESTRATOR_TEMPORAL_ADDRESS": f"127.0.0.1:{port}",
            "ORCHESTRATOR_STATE_DIR": str(tmp_path / "state"),
        }
    )


@pytest.fixture(scope="session")
async def shop(server: WorkflowEnvironment, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Shell]:
    """A shell for SmartExpense with a running worker process and the demo's accounts."""
    folder = tmp_path_factory.mktemp("shop")
    address = server.client.service_client.config.target_host
    shell = Shell(
        {
            "TEMPORAL_ADDRESS": address,
            "ORCHESTRATOR_STATE_DIR": str(folder),
            "ORCHESTRATOR_TASK_QUEUE": f"shop-{uuid4()}",
        }
    )
    worker = await shell.start("worker.py", program=(sys.executable,))
    assert worker.stdout is not None
    output = b""
    async with asyncio.timeout(60):
        while b"Ctrl-C drains" not in output:
            line = await worker.stdout.readline()
            assert line, f"the worker ended: {output!r}"
            output += line
    database = Database(f"sqlite:///{folder / 'application.db'}")
    async with database.transaction() as connection:
        await seed(connection)
    await database.close()
    yield shell
    worker.send_signal(signal.SIGTERM)
    await worker.communicate()


@pytest.fixture
def deserted(shop: Shell) -> Shell:
    """A shell for SmartExpense whose events go to a task queue that no worker polls."""
    return shop.at(ORCHESTRATOR_TASK_QUEUE=f"deserted-{uuid4()}")


@pytest.fixture
def at_home(house: House) -> Shell:
    """A shell for the application that serves the cast."""
    return shell_of(house)


def shell_of(house: House) -> Shell:
    """A shell for an application's server and database, with the cast's packages."""
    return Shell(
        {
            "TEMPORAL_ADDRESS": house.client.service_client.config.target_host,
            "ORCHESTRATOR_DATABASE_URL": house.database.url.render_as_string(hide_password=False),
            "ORCHESTRATOR_TASK_QUEUE": house.task_queue,
            "ORCHESTRATOR_PACKAGES": "tests.cast,tests.orchestrators",
        }
    )
