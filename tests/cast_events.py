"""Events of the cast's orchestrators, in their own module so that a sandbox does not load them for each execution."""

from orchestrator import DomainEvent, FailureEvent


class CoinsMoveRequested(DomainEvent):
    """Asks to move coins from one box to another."""

    source: str
    target: str
    coins: int


class CoinsMoveCompleted(DomainEvent):
    """The coins have been moved."""

    coins: int
    note: str


class CoinsMoveFailed(FailureEvent):
    """The coins have not been moved."""


class LetterRequested(DomainEvent):
    """Asks to send a letter with coins."""

    source: str
    coins: int


class LetterCompleted(DomainEvent):
    """The letter has been sent."""


class LetterFailed(FailureEvent):
    """The letter has not been sent."""


class NothingRequested(DomainEvent):
    """Asks for nothing, or for a refusal before any step."""

    refuse: bool


class NothingCompleted(DomainEvent):
    """The saga ended without a step."""


class NothingFailed(FailureEvent):
    """The saga refused without a step."""


class ParallelMoveRequested(DomainEvent):
    """Asks to move coins, with both sides in parallel."""

    source: str
    target: str
    coins: int


class ParallelMoveCompleted(DomainEvent):
    """The coins have been moved."""

    before: int


class ParallelMoveFailed(FailureEvent):
    """The coins have not been moved."""


class AtomicMoveRequested(DomainEvent):
    """Asks to move coins in one transaction and then to note it."""

    source: str
    target: str
    coins: int


class AtomicMoveCompleted(DomainEvent):
    """The coins have been moved."""

    before: int
    note: str


class AtomicMoveFailed(FailureEvent):
    """The coins have not been moved."""


class TimedRequested(DomainEvent):
    """Asks to write down the day of the event."""


class TimedCompleted(DomainEvent):
    """The day has been written down."""

    year_day: str


class TimedFailed(FailureEvent):
    """The day has not been written down."""


class TippedRequested(DomainEvent):
    """Asks to take coins. Its contract got a field with a default later."""

    name: str
    tip: int = 0


class TippedCompleted(DomainEvent):
    """The coins have been taken."""


class TippedFailed(FailureEvent):
    """The coins have not been taken."""


class ManyNotesRequested(DomainEvent):
    """Asks for many notes in parallel."""

    text: str
    notes: int


class ManyNotesCompleted(DomainEvent):
    """The notes have been written."""


class ManyNotesFailed(FailureEvent):
    """The notes have not been written."""


class ParcelRequested(DomainEvent):
    """Asks to pay for a parcel and to deliver it."""

    source: str
    coins: int
    refuse: bool = False


class ParcelCompleted(DomainEvent):
    """The parcel has been delivered."""


class ParcelFailed(FailureEvent):
    """The parcel has been neither paid for nor delivered."""


class ApprovalRequested(DomainEvent):
    """Asks to move coins once someone has approved."""

    coins: int
    wait_seconds: float = 30.0


class Approved(DomainEvent):
    """Someone approves the move of so many coins."""

    coins: int
    by: str


class ApprovalCompleted(DomainEvent):
    """The coins have been moved."""

    by: str


class ApprovalFailed(FailureEvent):
    """The coins have not been moved."""


class NapRequested(DomainEvent):
    """Asks to move coins, with a pause in between."""

    coins: int
    seconds: float


class NapCompleted(DomainEvent):
    """The coins have been moved."""


class NapFailed(FailureEvent):
    """The coins have not been moved."""


class HurryRequested(DomainEvent):
    """Asks to move coins before a deadline."""

    coins: int
    pivot: bool = False


class HurryCompleted(DomainEvent):
    """The coins have been moved."""


class HurryFailed(FailureEvent):
    """The coins have not been moved."""


class FlawedRequested(DomainEvent):
    """Asks to take coins, by an orchestrator with a bug."""

    coins: int


class FlawedCompleted(DomainEvent):
    """The coins have been taken."""


class FlawedFailed(FailureEvent):
    """The coins have not been taken."""


class BulkyRequested(DomainEvent):
    """Asks for many steps with large results."""

    times: int
    size: int
    parallel: bool


class BulkyCompleted(DomainEvent):
    """All steps have been run."""

    letters: int


class BulkyFailed(FailureEvent):
    """The steps have been undone."""


class LateApprovalRequested(DomainEvent):
    """Asks to pass the pivot and then to wait for an approval."""

    wait_seconds: float = 60.0


class LateApprovalCompleted(DomainEvent):
    """The approval has arrived, or the wait has timed out."""

    by: str


class LateApprovalFailed(FailureEvent):
    """The saga failed before its pivot."""


class TurnTakingRequested(DomainEvent):
    """Asks to move coins while holding lock keys."""

    keys: tuple[str, ...]
    ordering_key: str | None = None
    coins: int = 1


class TurnTakingCompleted(DomainEvent):
    """The coins have been moved."""


class TurnTakingFailed(FailureEvent):
    """The coins have not been moved."""
