"""The demo as a visitor runs it: as a process, with and without a terminal, repeated, interrupted, and killed."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from orchestrator.devserver.ports import HOST
from tests.embedded.processes import eventually, processes_with
from tests.embedded.terminal import PATIENCE, Terminal
from tests.embedded.terminal import terminal as in_terminal

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def environment(state: Path) -> dict[str, str]:
    """The environment of a script; its child processes inherit it, which is how the tests find them."""
    foreign = {"TEMPORAL_ADDRESS": "production.example:7233", "TEMPORAL_API_KEY": "not for a demo"}
    return {**os.environ, **foreign, "ORCHESTRATOR_STATE_DIR": str(state), "PYTHONUNBUFFERED": "1"}


def left_behind(state: Path) -> dict[int, str]:
    """Find the living processes that were started for this state."""
    return processes_with(f"ORCHESTRATOR_STATE_DIR={state}")


async def run(script: str, state: Path) -> tuple[int, str]:
    """Run a script to its end without a terminal; return its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"starter.{script}",
        cwd=ROOT,
        env=environment(state),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def terminal(script: str, state: Path) -> AbstractContextManager[Terminal]:
    """A script in a terminal; whatever a failed test leaves running is ended."""
    command = [sys.executable, "-m", f"starter.{script}"]
    return in_terminal(command, environment(state), ROOT, variable=f"ORCHESTRATOR_STATE_DIR={state}")


async def test_the_demo_runs_completely_and_can_be_repeated(tmp_path: Path) -> None:
    state = tmp_path / "state"

    code, output = await run("demo", state)

    assert code == 0, output
    for text in (
        "olena opened olena-usd (Wallet) with $1,000,000.00",
        "taras opened taras-kwd (Safe)",
        "refused, account.insufficient_funds",
        "Undone: put back",
        "One event published twice",
        "killed with SIGKILL",
        "has done step",
        "Waiting for Temporal to notice",
        "has finished",
        "each transfer was done exactly once",
        "Invariants checked, all hold",
        "failed: account.insufficient_funds",
        "completed, survived kill -9",
        "nothing is left running",
    ):
        assert text in output
    links = re.findall(
        r"^  (\w+) +http://\S+/namespaces/default/workflows/(?:MoneyTransfer|MonthReset)%2Fevent%2F(\S+)/timeline$",
        output,
        re.M,
    )
    assert [name for name, _ in links] == ["completed", "undone", "reset", "survived"]
    assert "production.example" not in output
    assert "Fatal Python error" not in output
    assert left_behind(state) == {}

    code, output = await run("demo", state)

    assert code == 0, output
    assert "olena-usd is open since an earlier run; the same event again did nothing" in output
    assert "Invariants checked, all hold" in output
    assert left_behind(state) == {}


async def test_in_a_terminal_the_demo_stays_until_ctrl_c_and_uses_other_ports_if_necessary(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with closing(socket.socket()) as busy:
        try:
            busy.bind((HOST, 7233))
            busy.listen()
        except OSError:
            pass  # another process uses the port, which has the same effect
        with terminal("demo", state) as visitor:
            await visitor.until("Port 7233 is taken: Temporal is on")
            await visitor.until("stay up for you")
            code, output = await run("demo", state)
            visitor.type("\x03")

            assert await visitor.end() == 0

    assert code == 1
    assert "running on" in output
    assert "orchestrator list" in output
    assert "nothing is left running" in visitor.output
    assert left_behind(state) == {}


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.exhaustive),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.exhaustive),
    ],
)
async def test_a_demo_that_is_interrupted_leaves_nothing_running(
    number: signal.Signals, expected: int, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with terminal("demo", state) as visitor:
        await visitor.until("A worker is ready")
        visitor.process.send_signal(number)

        assert await visitor.end() == expected

        assert left_behind(state) == {}


async def test_a_killed_demo_takes_its_server_and_its_worker_with_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with terminal("demo", state) as visitor:
        await visitor.until("A worker is ready")
        assert len(left_behind(state)) == 3
        visitor.process.kill()

        assert await visitor.end() == -signal.SIGKILL

        await eventually(lambda: left_behind(state) == {})


async def test_a_failed_demo_says_so_in_one_sentence_and_names_the_log(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "application.db").write_text("this is no database, and longer than a header of a hundred bytes " * 3)

    code, output = await run("demo", state)

    assert code == 1
    assert "The worker did not start. Its log," in output
    assert "worker-1.log" in output
    assert "Traceback" not in output
    assert left_behind(state) == {}


async def test_up_replaces_a_worker_that_dies_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with terminal("up", state) as visitor:
        await visitor.until("Ctrl-C stops both")
        (worker,) = [pid for pid, command in left_behind(state).items() if "worker.py" in command]
        os.kill(worker, signal.SIGKILL)
        await visitor.until("has taken over")
        visitor.type("\x03")

        assert await visitor.end() == 0

        assert f"worker {worker} ended with -9" in visitor.output
        assert left_behind(state) == {}


async def test_up_ends_with_its_terminal(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with terminal("up", state) as visitor:
        await visitor.until("Ctrl-C stops both")
        visitor.hang_up()

        await eventually(lambda: left_behind(state) == {}, seconds=PATIENCE)
