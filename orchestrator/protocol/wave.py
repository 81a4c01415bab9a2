"""The command that a partition sends to a wave, and its reply. The reply is in a marker of the partition's history."""

from enum import StrEnum

from orchestrator.protocol.commands import Message
from orchestrator.protocol.messages.dead_letters import Inbound
from orchestrator.protocol.names import EVENT_SIGNAL

WAVE_EVENTS = 50
"""The most events in one wave."""
WAVE_BYTES = 1024 * 1024
"""The most bytes of events in one wave; a single larger event has its own wave."""
AWAY = "DatabaseAway"
"""The error type of a wave that could not reach the database, which is not caused by any of its events."""
SMALL_WAVE = 6
"""The largest wave in which a slow saga is slow by itself and not because of the other sagas."""


class PostponeReason(StrEnum):
    """Why a wave did not finish a saga and postpones it to a later wave."""

    UNREACHED = "unreached"
    """The wave's time was up before it began with the saga."""
    SLOW = "slow"
    """The wave's time was up before the saga was done."""
    BLOCKED = "blocked"
    """Another saga holds one of the saga's locks."""
    FAILED = "failed"
    """The saga failed with an error that may be temporary."""
    LOST = "lost"
    """The database could not be reached or had no free connection, or the Temporal server could not be reached to start
    the saga's own execution."""
    UNREADABLE = "unreadable"
    """The saga is open, and this worker cannot read its recorded event; another worker may."""


class WaveItem(Message):
    """One event of a wave."""

    position: int
    """The position of the event's message among those of the run."""
    source: str = ""
    """The source of the message: `start`, `update`, or the signal's name. `wake` if a wake signal has named an event
    that the partition did not know."""
    event_id: str | None = None
    """The event's id, if its saga is open."""
    failures: int = 0
    """How often the saga was postponed as slow or failed."""
    losses: int = 0
    """How often the saga was postponed as lost."""

    def message(self, raw: bytes) -> Inbound:
        """Return the item's message, of which these are the bytes."""
        return Inbound(self.source or EVENT_SIGNAL, self.position, raw)


class WaveCommand(Message):
    """Drive these sagas, if possible to their ends. The messages of unopened sagas follow as further arguments, in the
    same order."""

    first_run_id: str
    items: tuple[WaveItem, ...]
    """The items of the wave."""
    opens_only: bool = False
    """Whether to only open the sagas, because the partition has more messages than its next run can be started with."""


class PostponedItem(Message):
    """A saga that the wave has not finished and that stays with the partition."""

    index: int
    """The index of its item in the wave."""
    why: PostponeReason
    event_id: str | None
    """The event's id, if its saga is open. The partition then no longer needs the message."""


class WaveReply(Message):
    """The result of a wave. An item that is not postponed is done, a dead letter, or in its own execution."""

    postponed: tuple[PostponedItem, ...] = ()
    """The postponed items."""
    done: int = 0
    """The number of sagas that have ended."""
    own: int = 0
    """The number of sagas that now have their own execution."""
    dead_letters: int = 0
    """The number of messages that were stored as dead letters."""
    woken: tuple[str, ...] = ()
    """The ids of events of this partition, outside the wave, whose sagas may now hold their locks."""
    seconds: float = 0.0
    """The duration of the wave."""


class CarriedItem(Message):
    """One event that a partition passes to its next run. The fields are those of `WaveItem`."""

    source: str = ""
    event_id: str | None = None
    """The event's id, if its saga is open; None if its message follows as an argument."""
    failures: int = 0
    losses: int = 0
    tries: int = 0
    """How often the saga has been delayed."""


class Carried(Message):
    """The first argument of a partition's run that continues another run. The messages of unopened events follow."""

    carried: tuple[CarriedItem, ...]
