"""A child process: it is stopped in time, hears no Ctrl-C, and never outlives its parent, on any system."""

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
from tests.embedded.looking import eventually, is_alive

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(60)"
)
OBEDIENT = "import time; print('here', flush=True); time.sleep(60)"


def a_child(script: str, log: Path, **options: object) -> Child:
    """A child that runs a Python script."""
    return Child.start([sys.executable, "-c", script], log=log, **options)  # type: ignore[arg-type]


def said(child: Child, text: str = "here") -> Callable[[], bool]:
    """Whether the child has written this."""
    return lambda: text in child.log.read_text()


async def test_stopping_waits_for_an_end_of_its_own(tmp_path: Path) -> None:
    child = a_child(OBEDIENT, tmp_path / "log")
    assert await child.wait_until(said(child))

    assert await child.stop(seconds=10)

    assert child.exit_code == -signal.SIGTERM


async def test_who_does_not_stop_in_time_is_killed(tmp_path: Path) -> None:
    child = a_child(STUBBORN, tmp_path / "log")
    assert await child.wait_until(said(child))

    assert not await child.stop(seconds=0.2)

    assert child.exit_code == -signal.SIGKILL


async def test_who_is_cancelled_while_stopping_leaves_nothing_behind(tmp_path: Path) -> None:
    child = a_child(STUBBORN, tmp_path / "log")
    assert await child.wait_until(said(child))
    stopping = asyncio.ensure_future(child.stop(seconds=60))
    await asyncio.sleep(0)

    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping

    assert await child.wait_ended() == -signal.SIGKILL


async def test_a_wait_ends_with_the_child(tmp_path: Path) -> None:
    child = a_child("print('no'); raise SystemExit(7)", tmp_path / "log")

    assert not await child.wait_until(said(child))

    assert child.exit_code == 7
    assert last_lines(child.log) == "    no"


async def test_a_child_has_a_session_of_its_own_and_nothing_to_read(tmp_path: Path) -> None:
    child = a_child("import os, sys; print(os.getsid(0), repr(sys.stdin.read()))", tmp_path / "log")

    await child.wait_ended()

    assert child.log.read_text() == f"{child.pid} ''\n"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc, and one of both ties is Linux's own")
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
async def test_a_child_lives_as_long_as_it_likes_under_a_living_parent(tie: Tie, tmp_path: Path) -> None:
    if tie == "kernel" and sys.platform != "linux":
        pytest.skip("Linux's own")
    child = a_child("import time; time.sleep(0.5); print('here')", tmp_path / "log", tie=tie)

    assert await child.wait_ended() == 0

    assert said(child)()
