"""Measures time and CPU: under a steady load, and with one saga at a time."""

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_RAMP_SECONDS = 1.0
"""How many seconds a load runs, at least, before it is measured."""

WARM_UP = 2
"""How many sagas run before those that are measured one at a time."""

RunSaga = Callable[[], Awaitable[None]]
"""Runs one saga from publishing to its known outcome."""


def cpu_seconds(roots: Sequence[int]) -> float:
    """Return the CPU time that processes and all of their descendants have used, including those that have ended.

    Raises:
        ProcessLookupError: one of the processes no longer exists.
    """
    used: dict[int, float] = {}
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue  # it has just ended, and its parent's count includes it
        fields = stat[stat.rindex(")") + 2 :].split()
        pid = int(entry.name)
        children[int(fields[1])].append(pid)
        # utime and stime, then cutime and cstime, which belong to children that have ended and were waited for
        used[pid] = sum(map(int, fields[11:15])) / _TICKS
    total = 0.0
    pending = list(roots)
    while pending:
        pid = pending.pop()
        if pid not in used:
            raise ProcessLookupError(f"process {pid} no longer exists, so its CPU time is unknown")
        total += used[pid]
        pending += children[pid]
    return total


@dataclass(frozen=True, slots=True)
class CpuClock:
    """Reads the CPU time of each part. The part `client` is this process."""

    parts: Mapping[str, Sequence[int]]
    """Process ids, by part."""

    def read(self) -> dict[str, float]:
        """Return the seconds of CPU that each part has used so far."""
        return {**{part: cpu_seconds(pids) for part, pids in self.parts.items()}, "client": time.process_time()}


@dataclass(slots=True)
class Load:
    """A steady load, measured between two moments at which it is complete.

    The start, when slots are empty, and the end, when no new sagas start, are not measured. Sagas that start together
    tend to end together, so the measurement covers whole cycles of all slots; otherwise slow forms would gain or lose a
    cycle by chance.
    """

    at_once: int
    run_seconds: float
    """How long to measure, at least."""
    clock: CpuClock
    seconds: float = 0.0
    """How long was measured."""
    waits: list[float] = field(default_factory=list[float])
    """Seconds from publishing to the known outcome, for each saga that ended during the measurement."""
    cpu: dict[str, float] = field(default_factory=dict[str, float])
    """Seconds of CPU that each part used during the measurement."""
    run: int = 0
    """How many sagas ran, including those before and after the measurement."""
    _started: float = field(default_factory=time.monotonic)
    _began: float | None = None
    _is_over: bool = False

    @property
    def throughput(self) -> float:
        """Sagas per second."""
        return len(self.waits) / self.seconds

    def cpu_ms_per_saga(self) -> dict[str, float]:
        """Return the milliseconds of CPU that each part used per saga."""
        return {part: 1_000 * used / len(self.waits) for part, used in self.cpu.items()}

    async def run_slot(self, run_saga: RunSaga) -> None:
        """Run one saga after the other in one of the slots, until enough was measured."""
        while not self._is_over:
            began = time.monotonic()
            await run_saga()
            self._record(time.monotonic() - began)

    def _record(self, wait: float) -> None:
        self.run += 1
        now = time.monotonic()
        if self._is_over:
            return
        if self._began is None:
            if self.run >= self.at_once and now - self._started >= min(_RAMP_SECONDS, self.run_seconds):
                self._began, self.cpu = time.monotonic(), self.clock.read()
            return
        self.waits.append(wait)
        if len(self.waits) % self.at_once == 0 and now - self._began >= self.run_seconds:
            self._is_over = True
            self.seconds = now - self._began
            self.cpu = {part: used - self.cpu[part] for part, used in self.clock.read().items()}


async def under_load(run_saga: RunSaga, *, at_once: int, seconds: float, clock: CpuClock) -> Load:
    """Keep `at_once` sagas in flight, measure for at least `seconds`, and wait until the remaining sagas have ended."""
    load = Load(at_once, seconds, clock)
    async with asyncio.TaskGroup() as slots:
        for _ in range(at_once):
            slots.create_task(load.run_slot(run_saga))
    return load


async def one_at_a_time(run_saga: RunSaga, *, sagas: int) -> list[float]:
    """Run sagas one at a time and return how many seconds each took. `WARM_UP` sagas run before them."""
    waits: list[float] = []
    for _ in range(WARM_UP + sagas):
        began = time.monotonic()
        await run_saga()
        waits.append(time.monotonic() - began)
    return waits[WARM_UP:]


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value below which a part (0 to 1) of the values lies, or 0 if there are no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(part * (len(ordered) - 1)))] if ordered else 0.0
