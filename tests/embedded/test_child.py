"""A child process is stopped within its time limit, receives no Ctrl-C, and never outlives its parent."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from orchestrator.devserver.child import Child, Tie, last_lines
from tests.embedded.processes import eventually, is_alive

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(60)"
)
OBEDIENT = "import time; print('here', flush=True); time.sleep(60)"


def start_child(script: str, log: Path, **options: object) -> Child:
    """Start a child that runs a Python script."""
    return Child.start([sys.executable, "-c", script], log=log, **options)  # type: ignore[arg-type]


def has_written(child: Child, text: str = "here") -> Callable[[], bool]:
    """A condition that holds once the child has written the text."""
    return lambda: text in child.log.read_text()


async def test_stop_waits_for_the_child_to_end_by_itself(tmp_path: Path) -> None:
    child = start_child(OBEDIENT, tmp_path / "log")
    assert await child.wait_until(has_written(child))

    assert await child.stop(seconds=10)

    assert child.exit_code == -signal.SIGTERM


async def test_a_child_that_does_not_stop_in_time_is_killed(tmp_path: Path) -> None:
    child = start_child(STUBBORN, tmp_path / "log")
    assert await child.wait_until(has_written(child))

    assert not await child.stop(seconds=0.2)

    assert child.exit_code == -signal.SIGKILL


async def test_a_cancelled_stop_still_kills_the_child(tmp_path: Path) -> None:
    child = start_child(STUBBORN, tmp_path / "log")
    assert await child.wait_until(has_written(child))
    stopping = asyncio.ensure_future(child.stop(seconds=60))
    await asyncio.sleep(0)

    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping

    assert await child.wait_ended() == -signal.SIGKILL


async def test_a_wait_ends_when_the_child_ends(tmp_path: Path) -> None:
    child = start_child("print('no'); raise SystemExit(7)", tmp_path / "log")

    assert not await child.wait_until(has_written(child))

    assert child.exit_code == 7
    assert last_lines(child.log) == "    no"


async def test_a_child_has_its_own_session_and_an_empty_stdin(tmp_path: Path) -> None:
    child = start_child("import os, sys; print(os.getsid(0), repr(sys.stdin.read()))", tmp_path / "log")

    await child.wait_ended()

    assert child.log.read_text() == f"{child.pid} ''\n"


@pytest.mark.skipif(
    sys.platform != "linux", reason="the test reads /proc, and one of the two ties exists only on Linux"
)
@pytest.mark.parametrize("tie", get_args(Tie))
async def test_a_child_never_outlives_a_killed_parent(tie: Tie, tmp_path: Path) -> None:
    parent = tmp_path / "parent.py"
    parent.write_text(
        textwrap.dedent(f"""
            import sys, time
            from pathlib import Path
            from orchestrator.devserver.child import Child
            child = Child.start([sys.executable, "-c", {OBEDIENT!r}], log=Path({str(tmp_path / "log")!r}), tie={tie!r})
            print(child.pid, flush=True)
            time.sleep(60)
        """)
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(parent), stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    assert process.stdout is not None
    pid = int(await process.stdout.readline())
    await eventually(lambda: "here" in (tmp_path / "log").read_text())

    process.kill()
    await process.wait()

    await eventually(lambda: not is_alive(pid))


@pytest.mark.parametrize("tie", get_args(Tie))
async def test_a_child_runs_to_its_end_while_its_parent_lives(tie: Tie, tmp_path: Path) -> None:
    if tie == "kernel" and sys.platform != "linux":
        pytest.skip("this tie exists only on Linux")
    child = start_child("import time; time.sleep(0.5); print('here')", tmp_path / "log", tie=tie)

    assert await child.wait_ended() == 0

    assert has_written(child)()
