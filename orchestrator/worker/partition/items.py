"""The items of a wave, and what becomes of each."""

from dataclasses import dataclass, field

from orchestrator.event import DomainEvent
from orchestrator.protocol.lock_keys import LockKeys
from orchestrator.protocol.messages.dead_letters import Inbound
from orchestrator.protocol.messages.envelope import Envelope, UnreadableEvent
from orchestrator.protocol.wave import PostponedItem, PostponeReason, WaveItem


@dataclass(slots=True)
class EnvelopeItem:
    """An item of a wave whose envelope has been read."""

    index: int
    """The item's index in the wave."""
    item: WaveItem
    envelope: Envelope
    is_open: bool
    """Whether the saga's row is known to exist. Otherwise the partition must keep the message."""

    def postponed(self, why: PostponeReason) -> PostponedItem:
        """Return the reply that postpones the saga to a later wave."""
        return PostponedItem(index=self.index, why=why, event_id=self.envelope.event_id if self.is_open else None)


@dataclass(slots=True)
class EventItem(EnvelopeItem):
    """An item of a wave whose event this worker can read."""

    event: DomainEvent
    locks: LockKeys = field(default_factory=lambda: LockKeys((), None))


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that becomes a dead letter."""

    message: Inbound
    fault: UnreadableEvent


@dataclass(frozen=True, slots=True)
class OwnExecutionNeeded:
    """A saga that needs its own execution, and why."""

    item: EnvelopeItem
    why: str


DriveResult = PostponedItem | OwnExecutionNeeded | Rejected | None
"""The result of driving an item, or None if its saga has ended."""


@dataclass(slots=True)
class Results:
    """The results of a wave, grouped by kind."""

    postponed: list[PostponedItem] = field(default_factory=list[PostponedItem])
    need_own: list[OwnExecutionNeeded] = field(default_factory=list[OwnExecutionNeeded])
    rejected: list[Rejected] = field(default_factory=list[Rejected])

    def add(self, result: DriveResult) -> None:
        """Add one result. None is not stored, because its saga has ended."""
        match result:
            case PostponedItem():
                self.postponed.append(result)
            case OwnExecutionNeeded():
                self.need_own.append(result)
            case Rejected():
                self.rejected.append(result)
            case None:
                pass
