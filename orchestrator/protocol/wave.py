"""What a partition asks of a wave, and what it hears back. The markers of a partition's history hold the replies."""

from enum import StrEnum

from orchestrator.protocol.commands import Message

WAVE_EVENTS = 50
"""Events in one wave."""
WAVE_BYTES = 1024 * 1024
"""Bytes of events in one wave, unless one alone takes more."""


AWAY = "DatabaseAway"
"""Type of the error of a wave that found no database: no event is to blame."""


SMALL_WAVE = 6
"""A saga that is slow in so small a wave is slow by itself, and not because of the others."""


class PostponeReason(StrEnum):
    """Why a wave left a saga."""

    UNREACHED = "unreached"
    """Time was up before it began."""
    SLOW = "slow"
    """Time was up before it was done."""
    BLOCKED = "blocked"
    """Another saga holds one of its locks."""
    FAILED = "failed"
    """Something of its own went wrong; it may pass."""
    LOST = "lost"
    """The database was away, or had no connection to spare; or the server, when it needed an execution of its own."""
    UNREADABLE = "unreadable"
    """It is open, and this worker cannot read its recorded event; another one may."""


class WaveItem(Message):
    """One event of a wave."""

    position: int
    """Of its message in the run."""
    door: str = ""
    """`start`, `update`, or the signal's name: `wake` if it was only named, as one that may go on."""
    event_id: str | None = None
    """Of an open saga."""
    failures: int = 0
    """How often it was left as slow or failed."""
    losses: int = 0
    """How often it was left as lost."""


class WaveCommand(Message):
    """Drive these, each to its end if it can be. The messages themselves are given beside it, in the same order."""

    first_run_id: str
    places: tuple[WaveItem, ...]
    opens_only: bool = False
    """Only write the sagas' rows: the partition has more to carry than a run can be begun with."""


class PostponedItem(Message):
    """A saga that is the partition's still."""

    index: int
    """Of its place in the wave."""
    why: PostponeReason
    event_id: str | None
    """If its saga is open: its message need not be kept."""


class WaveReply(Message):
    """What became of a wave. What is not left is settled: done, a dead letter, or in an execution of its own."""

    left: tuple[PostponedItem, ...] = ()
    done: int = 0
    own: int = 0
    """Have an execution of their own now."""
    letters: int = 0
    """Dead letters."""
    woken: tuple[str, ...] = ()
    """Ids of this partition's events that may hold their locks now, and were not in the wave."""
    seconds: float = 0.0
    """How long it took."""


class CarriedItem(Message):
    """One event that a partition hands to its next run."""

    door: str = ""
    event_id: str | None = None
    """None: its message is among those that follow."""
    failures: int = 0
    losses: int = 0
    tries: int = 0


class Carried(Message):
    """First argument of a partition's run that goes on for another; the messages of unopened events follow."""

    carried: tuple[CarriedItem, ...]
