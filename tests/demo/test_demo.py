"""The demo as a visitor runs it: as a process, without and with a terminal, again, interrupted, and killed."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from orchestrator.devserver.ports import HOST
from tests.embedded.looking import eventually, processes_with

ROOT = Path(__file__).parents[2]
PATIENCE = 120

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def environment(state: Path) -> dict[str, str]:
    """What a script of ours is run with; whatever it starts has it too, and is found by it."""
    foreign = {"TEMPORAL_ADDRESS": "production.example:7233", "TEMPORAL_API_KEY": "not for a demo"}
    return {**os.environ, **foreign, "ORCHESTRATOR_STATE_DIR": str(state), "PYTHONUNBUFFERED": "1"}


def left_behind(state: Path) -> dict[int, str]:
    """Every living process that was started for this state."""
    return processes_with(f"ORCHESTRATOR_STATE_DIR={state}")


async def run(script: str, state: Path) -> tuple[int, str]:
    """Run to its end, without a terminal; its exit code, and all it said."""
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
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Between a new session and the script: from here on, Ctrl-C is the script's."""


class Terminal:
    """A script in a terminal, with somebody at it."""

    def __init__(self, script: str, state: Path) -> None:
        self.said = ""
        self._ours, theirs = os.openpty()
        self._open = True
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, sys.executable, "-m", f"starter.{script}"],
            cwd=ROOT,
            env=environment(state),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    async def until(self, text: str) -> None:
        """Read until it says this."""
        async with asyncio.timeout(PATIENCE):
            while text not in self.said:
                assert await self._read(), f"ended without {text!r}: {self.said}"

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    async def end(self) -> int:
        """Read to its end; its exit code, minus a signal's number if that ended it."""
        async with asyncio.timeout(PATIENCE):
            while await self._read():
                pass
            return await asyncio.to_thread(self.process.wait)

    def hang_up(self) -> None:
        """Close the window."""
        if self._open:
            self._open = False
            os.close(self._ours)

    async def _read(self) -> bool:
        try:
            more = await asyncio.to_thread(os.read, self._ours, 65536)
        except OSError:  # how a terminal tells that nobody holds its other side any more
            return False
        self.said += more.decode(errors="replace")
        return bool(more)


@contextmanager
def terminal(script: str, state: Path) -> Generator[Terminal]:
    """A script in a terminal; whatever a failed test leaves running is ended."""
    made = Terminal(script, state)
    try:
        yield made
    finally:
        for pid in left_behind(state):
            os.kill(pid, signal.SIGKILL)
        made.process.wait()
        made.hang_up()


async def test_the_demo_tells_its_story_ends_well_and_does_so_again(tmp_path: Path) -> None:
    state = tmp_path / "state"

    code, said = await run("demo", state)

    assert code == 0, said
    for promised in (
        "olena opened olena-usd (Wallet) with $1,000,000.00",
        "taras opened taras-kwd (Safe)",
        "refused, account.insufficient_funds",
        "Undone: put back",
        "One event published twice",
        "killed with SIGKILL",
        "stands after step",
        "Waiting for Temporal to notice",
        "has finished",
        "each transfer was done exactly once",
        "Invariants checked, all hold",
        "failed: account.insufficient_funds",
        "completed, survived kill -9",
        "nothing is left running",
    ):
        assert promised in said
    links = re.findall(
        r"^  (\w+) +http://\S+/namespaces/default/workflows/(?:MoneyTransfer|MonthReset)%2Fevent%2F(\S+)/timeline$",
        said,
        re.M,
    )
    assert [name for name, _ in links] == ["completed", "undone", "reset", "survived"]
    assert "production.example" not in said
    assert "Fatal Python error" not in said
    assert left_behind(state) == {}

    code, said = await run("demo", state)

    assert code == 0, said
    assert "olena-usd is open since an earlier run; the same event again did nothing" in said
    assert "Invariants checked, all hold" in said
    assert left_behind(state) == {}


async def test_in_a_terminal_the_demo_stays_until_ctrl_c_on_other_ports_if_it_must(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with closing(socket.socket()) as busy:
        try:
            busy.bind((HOST, 7233))
            busy.listen()
        except OSError:
            pass  # somebody else has it, which is as good
        with terminal("demo", state) as visitor:
            await visitor.until("Port 7233 is taken: Temporal is on")
            await visitor.until("stay up for you")
            code, said = await run("demo", state)
            visitor.type("\x03")

            assert await visitor.end() == 0

    assert code == 1
    assert "running on" in said
    assert "orchestrator list" in said
    assert "nothing is left running" in visitor.said
    assert left_behind(state) == {}


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
async def test_a_demo_that_is_interrupted_leaves_nothing_running(
    number: signal.Signals, expected: int, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with terminal("demo", state) as visitor:
        await visitor.until("A worker is ready")
        visitor.process.send_signal(number)

        assert await visitor.end() == expected

        assert left_behind(state) == {}


async def test_a_demo_that_is_killed_takes_its_server_and_its_worker_along(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with terminal("demo", state) as visitor:
        await visitor.until("A worker is ready")
        assert len(left_behind(state)) == 3
        visitor.process.kill()

        assert await visitor.end() == -signal.SIGKILL

        await eventually(lambda: left_behind(state) == {})


async def test_a_demo_that_fails_says_so_in_a_sentence_and_names_the_log(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "application.db").write_text("this is no database, and longer than a header of a hundred bytes " * 3)

    code, said = await run("demo", state)

    assert code == 1
    assert "The worker did not start. Its log," in said
    assert "worker-1.log" in said
    assert "Traceback" not in said
    assert left_behind(state) == {}


async def test_up_keeps_a_worker_running_even_if_one_dies_and_ends_when_told(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with terminal("up", state) as visitor:
        await visitor.until("Ctrl-C stops both")
        (worker,) = [pid for pid, command in left_behind(state).items() if "worker.py" in command]
        os.kill(worker, signal.SIGKILL)
        await visitor.until("has taken over")
        visitor.type("\x03")

        assert await visitor.end() == 0

        assert f"worker {worker} ended with -9" in visitor.said
        assert left_behind(state) == {}


async def test_up_ends_with_its_terminal(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with terminal("up", state) as visitor:
        await visitor.until("Ctrl-C stops both")
        visitor.hang_up()

        await eventually(lambda: left_behind(state) == {}, seconds=PATIENCE)
