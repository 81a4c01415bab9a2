"""Events of the cast's orchestrators: apart from them, so that a sandbox need not make them anew for each execution."""

from orchestrator import DomainEvent, FailureEvent


class CoinsMoveRequested(DomainEvent):
    """Move coins from a box to another."""

    source: str
    target: str
    coins: int


class CoinsMoveCompleted(DomainEvent):
    """Moved."""

    coins: int
    note: str


class CoinsMoveFailed(FailureEvent):
    """Not moved."""


class LetterRequested(DomainEvent):
    """Send a letter with coins."""

    source: str
    coins: int


class LetterCompleted(DomainEvent):
    """Sent."""


class LetterFailed(FailureEvent):
    """Not sent."""


class NothingRequested(DomainEvent):
    """Do nothing, or say no without a step."""

    refuse: bool


class NothingCompleted(DomainEvent):
    """Done nothing."""


class NothingFailed(FailureEvent):
    """Refused without a step."""


class ParallelMoveRequested(DomainEvent):
    """Move coins, both sides at once."""

    source: str
    target: str
    coins: int


class ParallelMoveCompleted(DomainEvent):
    """Moved."""

    before: int


class ParallelMoveFailed(FailureEvent):
    """Not moved."""


class AtomicMoveRequested(DomainEvent):
    """Move coins in one transaction, then note it."""

    source: str
    target: str
    coins: int


class AtomicMoveCompleted(DomainEvent):
    """Moved."""

    before: int
    note: str


class AtomicMoveFailed(FailureEvent):
    """Not moved."""


class TimedRequested(DomainEvent):
    """Write down the day."""


class TimedCompleted(DomainEvent):
    """Written."""

    year_day: str


class TimedFailed(FailureEvent):
    """Not written."""


class TippedRequested(DomainEvent):
    """Take coins; its contract got a field with a default later."""

    name: str
    tip: int = 0


class TippedCompleted(DomainEvent):
    """Taken."""


class TippedFailed(FailureEvent):
    """Not taken."""


class ManyNotesRequested(DomainEvent):
    """Write many notes at once."""

    text: str
    notes: int


class ManyNotesCompleted(DomainEvent):
    """Written."""


class ManyNotesFailed(FailureEvent):
    """Not written."""


class ParcelRequested(DomainEvent):
    """Pay, then deliver."""

    source: str
    coins: int
    refuse: bool = False


class ParcelCompleted(DomainEvent):
    """Delivered."""


class ParcelFailed(FailureEvent):
    """Neither paid nor delivered."""


class ApprovalRequested(DomainEvent):
    """Move coins once somebody agrees."""

    coins: int
    wait_seconds: float = 30.0


class Approved(DomainEvent):
    """Somebody agrees, or not."""

    coins: int
    by: str


class ApprovalCompleted(DomainEvent):
    """Moved."""

    by: str


class ApprovalFailed(FailureEvent):
    """Not moved."""


class NapRequested(DomainEvent):
    """Move coins, with a pause."""

    coins: int
    seconds: float


class NapCompleted(DomainEvent):
    """Moved."""


class NapFailed(FailureEvent):
    """Not moved."""


class HurryRequested(DomainEvent):
    """Move coins before it is too late."""

    coins: int
    pivot: bool = False


class HurryCompleted(DomainEvent):
    """Moved."""


class HurryFailed(FailureEvent):
    """Not moved."""


class FlawedRequested(DomainEvent):
    """Take coins."""

    coins: int


class FlawedCompleted(DomainEvent):
    """Taken."""


class FlawedFailed(FailureEvent):
    """Not taken."""


class BulkyRequested(DomainEvent):
    """Ask often, for much."""

    times: int
    size: int
    parallel: bool


class BulkyCompleted(DomainEvent):
    """Asked."""

    letters: int


class BulkyFailed(FailureEvent):
    """Not asked."""


class LateApprovalRequested(DomainEvent):
    """Deliver, and then ask who agrees."""

    wait_seconds: float = 60.0


class LateApprovalCompleted(DomainEvent):
    """Delivered."""

    by: str


class LateApprovalFailed(FailureEvent):
    """Not delivered."""


class TurnTakingRequested(DomainEvent):
    """Move coins while holding keys."""

    keys: tuple[str, ...]
    ordering_key: str | None = None
    coins: int = 1


class TurnTakingCompleted(DomainEvent):
    """Moved."""


class TurnTakingFailed(FailureEvent):
    """Not moved."""
