"""Time and CPU: a steady load, one saga after the other, and what the processes used meanwhile."""

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
"""At least so long a load runs before it is measured."""

WARM_UP = 2
"""Sagas before those that are taken one at a time."""

RunSaga = Callable[[], Awaitable[None]]
"""From publishing to the known outcome."""


def cpu_seconds(roots: Sequence[int]) -> float:
    """CPU that these processes and all of their children have used, those that have ended among them.

    Raises:
        OSError: one of them is gone.
    """
    used: dict[int, float] = {}
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue  # it has just ended; its parent has its share
        fields = stat[stat.rindex(")") + 2 :].split()
        pid = int(entry.name)
        children[int(fields[1])].append(pid)
        # utime, stime, and cutime, cstime: of children that have ended and were waited for
        used[pid] = sum(map(int, fields[11:15])) / _TICKS
    total = 0.0
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in used:
            raise ProcessLookupError(f"process {pid} is gone, and with it what it used")
        total += used[pid]
        waiting += children[pid]
    return total


@dataclass(frozen=True, slots=True)
class CpuClock:
    """What each part uses; `client` is this process."""

    parts: Mapping[str, Sequence[int]]
    """Process ids by part."""

    def read(self) -> dict[str, float]:
        """Seconds of CPU used until now, by part."""
        return {**{part: cpu_seconds(pids) for part, pids in self.parts.items()}, "client": time.process_time()}


@dataclass(slots=True)
class Load:
    """A steady load, and what came of it between two moments at which the load was the same.

    The empty beginning does not count, nor the end in which no new sagas come. Sagas that began together tend to end
    together, so what is measured is whole turns of all places: otherwise slow forms would lose or win a turn by chance.
    """

    at_once: int
    run_seconds: float
    """To be measured at the least."""
    clock: CpuClock
    seconds: float = 0.0
    """That were measured."""
    waits: list[float] = field(default_factory=list[float])
    """Seconds from publishing to the known outcome, of each saga that ended meanwhile."""
    cpu: dict[str, float] = field(default_factory=dict[str, float])
    """Seconds of CPU that were used meanwhile, by part."""
    run: int = 0
    """Sagas altogether, also before and after."""
    _started: float = field(default_factory=time.monotonic)
    _began: float | None = None
    _is_over: bool = False

    @property
    def throughput(self) -> float:
        """Sagas a second."""
        return len(self.waits) / self.seconds

    def cpu_ms_a_saga(self) -> dict[str, float]:
        """By part."""
        return {part: 1_000 * used / len(self.waits) for part, used in self.cpu.items()}

    async def place(self, run_saga: RunSaga) -> None:
        """One of the places: a saga after the other, until enough was measured."""
        while not self._is_over:
            began = time.monotonic()
            await run_saga()
            self._note(time.monotonic() - began)

    def _note(self, wait: float) -> None:
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
    """Keep so many sagas in flight, measure for so many seconds or little more, and let those in flight end."""
    load = Load(at_once, seconds, clock)
    async with asyncio.TaskGroup() as places:
        for _ in range(at_once):
            places.create_task(load.place(run_saga))
    return load


async def one_at_a_time(run_saga: RunSaga, *, sagas: int) -> list[float]:
    """Seconds that each of so many sagas took, nothing else in flight; `WARM_UP` more come first."""
    waits: list[float] = []
    for _ in range(WARM_UP + sagas):
        began = time.monotonic()
        await run_saga()
        waits.append(time.monotonic() - began)
    return waits[WARM_UP:]


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which this part (0 to 1) of them lies; 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(part * (len(ordered) - 1)))] if ordered else 0.0
