"""How the benchmark measures: a constant load, and the CPU time of processes with their children."""

import asyncio
import os
import subprocess
import sys

import pytest

from benchmarks.measuring import PROC, WARM_UP, CpuClock, cpu_seconds, one_at_a_time, percentile, under_load

NO_PARTS = CpuClock({})
linux = pytest.mark.skipif(not (PROC / "self" / "stat").exists(), reason="CPU is read from /proc")


async def test_a_load_keeps_a_constant_number_of_sagas_running() -> None:
    running, most = 0, 0

    async def run_saga() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    load = await under_load(run_saga, at_once=7, seconds=0.02, clock=NO_PARTS)

    assert most == 7
    assert len(load.waits) % 7 == 0
    assert 7 <= len(load.waits) <= load.run - 7
    assert set(load.cpu_ms_per_saga()) == {"client"}


async def test_sagas_that_run_alone_do_not_overlap() -> None:
    runs: list[bool] = []
    free = asyncio.Lock()

    async def run_saga() -> None:
        runs.append(free.locked())
        async with free:
            await asyncio.sleep(0)

    waits = await one_at_a_time(run_saga, sagas=3)

    assert len(waits) == 3
    assert runs == [False] * (3 + WARM_UP)


@linux
def test_ended_children_count_towards_their_parent() -> None:
    before = cpu_seconds([os.getpid()])
    # The child runs until it has used a tenth of a second of CPU time.
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.1: pass"], check=True)

    assert cpu_seconds([os.getpid()]) - before >= 0.05


@linux
def test_running_children_count_towards_their_parent() -> None:
    code = "import sys, time\nwhile time.process_time() < 0.1: pass\nprint(flush=True); sys.stdin.read()"
    before = cpu_seconds([os.getpid()])
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()

        assert cpu_seconds([os.getpid()]) - before >= 0.05
        assert cpu_seconds([child.pid]) >= 0.05


@linux
def test_a_process_that_is_gone_is_an_error() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    with pytest.raises(ProcessLookupError, match=f"process {gone.pid} no longer exists"):
        cpu_seconds([gone.pid])


def test_percentiles() -> None:
    values = [float(number) for number in range(101)]

    assert (percentile(values, 0.5), percentile(values, 0.95), percentile([], 0.5)) == (50.0, 95.0, 0.0)
