"""The plan of faults: what happens to which part, and when. A seed determines it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from random import Random
from typing import Literal

Dialect = Literal["postgresql", "sqlite"]

FULL_SAGAS, FULL_MINUTES = 2000, 3.0
"""From this size on, a run must reach the full minimum counts."""
_KILLS, _STOPS, _TERMINATIONS, _RESETS, _FAILOVERS = 12, 6, 30, 16, 4
"""Numbers of faults in a run of three minutes."""
CANCELLED = 0.09
"""The share of sagas that are cancelled if possible."""


class Target(StrEnum):
    """The part that a fault affects."""

    WORKER = "worker"
    SUPERVISOR = "supervisor"
    TEMPORAL = "temporal"
    POSTGRESQL = "postgresql"
    BACKEND = "backend"
    SAGA = "saga"
    PARTITION = "partition"


class Act(StrEnum):
    """The kind of fault."""

    KILL = "kill"
    STOP = "stop"
    TERMINATE = "terminate"
    RESET = "reset"
    FAIL_OVER = "fail over"
    """The primary is killed, and its standby takes over."""


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One fault."""

    at: float
    """Seconds after the start."""
    target: Target
    act: Act
    seconds: float = 0.0
    """How long the part is suspended."""

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at:6.1f} s  {self.act} {self.target}{lasts}"


@dataclass(frozen=True, slots=True)
class Minima:
    """How often each fault must have happened for the run to be meaningful."""

    kills: dict[str, int]
    """Kills by part."""
    cancelled: float
    """The share of sagas that were cancelled after their first step had started."""
    late: int
    """Attempts that were barred because they came too late."""
    terminations: int
    failovers: int
    """Failovers of PostgreSQL from the primary to its standby."""
    is_full: bool


def plan(*, seed: int, minutes: float, sagas: int, database: Dialect) -> tuple[Fault, ...]:
    """Draw all faults, in the order of their times."""
    random = Random(f"faults/{seed}/{database}")
    share = _share(sagas, minutes)
    longer = max(1.0, minutes / FULL_MINUTES)
    seconds = minutes * 60
    faults: list[Fault] = []

    def spread(count: int, target: Target, act: Act, longest: float = 0.0) -> None:
        for number in range(ceil(count * share * longer)):
            at = (number + random.uniform(0.1, 0.9)) / ceil(count * share * longer) * seconds
            lasts = round(random.triangular(1, longest, 1), 1) if longest else 0.0
            faults.append(Fault(round(at, 1), target, act, lasts))

    # No suspension may take more than a part of the run, or a short run would be suspended most of the time.
    longest = max(1.5, min(15.0, seconds / 8))
    is_postgresql = database == "postgresql"
    spread(_KILLS if is_postgresql else _KILLS * 2, Target.WORKER, Act.KILL)
    spread(3, Target.SUPERVISOR, Act.KILL)
    spread(_KILLS, Target.TEMPORAL, Act.KILL)
    spread(_STOPS, Target.WORKER, Act.STOP, longest)
    spread(_STOPS // 2, Target.TEMPORAL, Act.STOP, longest / 2)
    if is_postgresql:
        spread(_KILLS, Target.POSTGRESQL, Act.KILL)
        spread(_STOPS, Target.BACKEND, Act.STOP, longest)
        spread(_STOPS // 2, Target.POSTGRESQL, Act.STOP, longest / 2)
    spread(_TERMINATIONS - 6, Target.SAGA, Act.TERMINATE)
    spread(6, Target.PARTITION, Act.TERMINATE)
    spread(_RESETS - 4, Target.SAGA, Act.RESET)
    spread(4, Target.PARTITION, Act.RESET)
    if is_postgresql:
        spread(_FAILOVERS, Target.POSTGRESQL, Act.FAIL_OVER)
    return tuple(sorted(faults))


def minima(planned: Sequence[Fault], *, minutes: float, sagas: int) -> Minima:
    """Return the minimum counts: in full from 2000 sagas and three minutes on, otherwise in proportion."""
    share = _share(sagas, minutes)
    killed = Counter(fault.target for fault in planned if fault.act is Act.KILL)
    parts = [target for target in (Target.WORKER, Target.TEMPORAL, Target.POSTGRESQL) if killed[target]]
    return Minima(
        kills={part.value: _scaled(10, share) for part in parts},
        cancelled=0.05 if share == 1 else 0.02,
        late=_scaled(50, share / 2 if share < 1 else 1),
        terminations=_scaled(20, share),
        failovers=_scaled(3, share) if any(fault.act is Act.FAIL_OVER for fault in planned) else 0,
        is_full=share == 1,
    )


def _share(sagas: int, minutes: float) -> float:
    return min(1.0, sagas / FULL_SAGAS, minutes / FULL_MINUTES)


def _scaled(full: int, share: float) -> int:
    return max(1, int(full * share))
