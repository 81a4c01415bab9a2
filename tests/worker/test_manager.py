"""The manager as a process: what it prints, how it drains and how it fails."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

ROOT = Path(__file__).parent.parent.parent
CLOSED = "127.0.0.1:1"
"""An address on which nothing listens."""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Generator[Start]:
    """A function that starts `python worker.py`; processes that still run at the end are killed."""
    started: list[subprocess.Popen[str]] = []

    def run(**environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "worker.py"],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "ORCHESTRATOR_STATE_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1", **environment},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def address(server: WorkflowEnvironment) -> str:
    """The address of the test run's Temporal server."""
    return server.client.service_client.config.target_host


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Wait for a process to end; returns its exit code, stdout and stderr."""
    out, err = process.communicate(timeout=40)
    return process.returncode, out, err


def read_until_ready(process: "subprocess.Popen[str]") -> str:
    """What a worker prints until it waits for work."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C drains" in line:
            break
    return "".join(lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_prints_what_it_runs_and_drains_on_a_signal(
    start: Start, server: WorkflowEnvironment, number: signal.Signals
) -> None:
    process = start(TEMPORAL_ADDRESS=address(server), ORCHESTRATOR_TASK_QUEUE=str(uuid4()))
    output = read_until_ready(process)
    assert "AccountCreation, AccountValueEdit, ActivityRecordRemoval, " in output
    assert "Web UI" in output
    assert address(server) in output

    process.send_signal(number)
    code, out, err = ended(process)

    assert code == 0
    assert "Drained" in out
    assert "Fatal Python error" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("interval", "scheduled"), [("3600", True), ("0", False)])
async def test_a_worker_schedules_recovery_unless_the_interval_is_zero(
    start: Start, client: Client, interval: str, scheduled: bool
) -> None:
    task_queue = str(uuid4())
    process = start(
        TEMPORAL_ADDRESS=client.service_client.config.target_host,
        ORCHESTRATOR_TASK_QUEUE=task_queue,
        ORCHESTRATOR_RECOVERY_INTERVAL=interval,
    )
    await asyncio.to_thread(read_until_ready, process)

    described = client.get_schedule_handle(f"orchestrator-recovery/{task_queue}").describe()

    if scheduled:
        assert (await described).schedule.spec.intervals[0].every == timedelta(hours=1)
    else:
        with pytest.raises(RPCError, match="not found"):
            await described


def test_a_second_signal_ends_a_worker_at_once(start: Start, server: WorkflowEnvironment) -> None:
    process = start(TEMPORAL_ADDRESS=address(server), ORCHESTRATOR_TASK_QUEUE=str(uuid4()))
    read_until_ready(process)

    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)

    assert ended(process)[0] in (0, -signal.SIGTERM)


def test_an_unreachable_temporal_is_reported_in_one_line_with_exit_code_3(start: Start) -> None:
    code, out, err = ended(start(TEMPORAL_ADDRESS=CLOSED))

    assert code == 3
    assert out == ""
    assert err.count("\n") == 1
    assert CLOSED in err
    assert "TEMPORAL_ADDRESS" in err


def test_an_unreachable_database_is_reported_in_one_line_with_exit_code_3(
    start: Start, server: WorkflowEnvironment
) -> None:
    database = f"postgresql://someone:secret@{CLOSED}/none"
    code, _, err = ended(start(TEMPORAL_ADDRESS=address(server), ORCHESTRATOR_DATABASE_URL=database))

    assert code == 3
    assert err.count("\n") == 1
    assert "ORCHESTRATOR_DATABASE_URL" in err
    assert "secret" not in err


def test_all_definition_faults_are_reported_and_nothing_starts(start: Start, tmp_path: Path) -> None:
    package = tmp_path / "faulty"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from orchestrator import Transaction, operation\n"
        "@operation\nasync def one(tx: Transaction) -> None: ...\n"
        "@operation\ndef two(tx: Transaction) -> None: ...\n"
    )
    code, _, err = ended(start(TEMPORAL_ADDRESS=CLOSED, ORCHESTRATOR_PACKAGES="faulty", PYTHONPATH=str(tmp_path)))

    assert code == 2
    assert "nothing was started" in err
    assert "  one " in err
    assert "  two is not asynchronous" in err
    assert "Traceback" not in err
