"""The cast's orchestrators and their events."""

from collections.abc import Sequence
from datetime import timedelta

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Refused, Saga
from tests.cast import Plan, count, deliver, lots, put, send_letter, take, write_note


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


class CoinsMove(Orchestrator[CoinsMoveRequested, CoinsMoveCompleted, CoinsMoveFailed]):
    """Three steps that can be undone."""

    async def handle(self, event: CoinsMoveRequested, saga: Saga) -> CoinsMoveCompleted:
        """Take, put, note."""
        taken, _, key = await saga.execute_batch(
            take(event.source, event.coins), put(event.target, event.coins), write_note(f"moved {event.coins}")
        )
        return CoinsMoveCompleted(coins=taken, note=key)


class LetterRequested(DomainEvent):
    """Send a letter with coins."""

    source: str
    coins: int


class LetterCompleted(DomainEvent):
    """Sent."""


class LetterFailed(FailureEvent):
    """Not sent."""


class Letter(Orchestrator[LetterRequested, LetterCompleted, LetterFailed]):
    """A step that can be undone, then one that cannot."""

    async def handle(self, event: LetterRequested, saga: Saga) -> LetterCompleted:
        """Take, send."""
        await saga.execute(take(event.source, event.coins))
        await saga.execute(send_letter("coins inside"))
        return LetterCompleted()


class NothingRequested(DomainEvent):
    """Do nothing, or say no without a step."""

    refuse: bool


class NothingCompleted(DomainEvent):
    """Done nothing."""


class NothingFailed(FailureEvent):
    """Refused without a step."""


class Nothing(Orchestrator[NothingRequested, NothingCompleted, NothingFailed]):
    """A saga of no steps."""

    async def handle(self, event: NothingRequested, saga: Saga) -> NothingCompleted:
        """Refuse, or not."""
        if event.refuse:
            raise Refused("nothing.refused", "asked to refuse")
        return NothingCompleted()


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


class ParallelMove(Orchestrator[ParallelMoveRequested, ParallelMoveCompleted, ParallelMoveFailed]):
    """Steps at once, the first of the saga among them."""

    async def handle(self, event: ParallelMoveRequested, saga: Saga) -> ParallelMoveCompleted:
        """Count, take and put at once."""
        before, _, _ = await saga.execute_batch(
            count(event.source), take(event.source, event.coins), put(event.target, event.coins), parallel=True
        )
        return ParallelMoveCompleted(before=before)


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


class AtomicMove(Orchestrator[AtomicMoveRequested, AtomicMoveCompleted, AtomicMoveFailed]):
    """Operations and a query that are one step, and a step after it."""

    async def handle(self, event: AtomicMoveRequested, saga: Saga) -> AtomicMoveCompleted:
        """Count, take and put; then note."""
        before, _, _ = await saga.execute_atomically(
            count(event.source), take(event.source, event.coins), put(event.target, event.coins)
        )
        key = await saga.execute(write_note(f"moved {event.coins}"))
        return AtomicMoveCompleted(before=before, note=key)


class TimedRequested(DomainEvent):
    """Write down the day."""


class TimedCompleted(DomainEvent):
    """Written."""

    year_day: str


class TimedFailed(FailureEvent):
    """Not written."""


class Timed(Orchestrator[TimedRequested, TimedCompleted, TimedFailed]):
    """Its steps depend on the event's time."""

    async def handle(self, event: TimedRequested, saga: Saga) -> TimedCompleted:
        """Two notes of the day."""
        day = saga.event_time.date().isoformat()
        await saga.execute(write_note(day))
        await saga.execute(write_note(f"still {day}"))
        return TimedCompleted(year_day=day)


class TippedRequested(DomainEvent):
    """Take coins; its contract got a field with a default later."""

    name: str
    tip: int = 0


class TippedCompleted(DomainEvent):
    """Taken."""


class TippedFailed(FailureEvent):
    """Not taken."""


class Tipped(Orchestrator[TippedRequested, TippedCompleted, TippedFailed]):
    """For events that were sent before and after the field came."""

    async def handle(self, event: TippedRequested, saga: Saga) -> TippedCompleted:
        """Take ten, and the tip."""
        await saga.execute(take(event.name, 10 + event.tip))
        return TippedCompleted()


class ManyNotesRequested(DomainEvent):
    """Write many notes at once."""

    text: str
    notes: int


class ManyNotesCompleted(DomainEvent):
    """Written."""


class ManyNotesFailed(FailureEvent):
    """Not written."""


class ManyNotes(Orchestrator[ManyNotesRequested, ManyNotesCompleted, ManyNotesFailed]):
    """A saga's first steps at once; an instance counts what it did."""

    def __init__(self) -> None:
        self.written = 0

    async def handle(self, event: ManyNotesRequested, saga: Saga) -> ManyNotesCompleted:
        """Write each note."""
        self.written += event.notes
        await saga.execute_all([write_note(f"{n} of {self.written}") for n in range(event.notes)], parallel=True)
        return ManyNotesCompleted()


class ParcelRequested(DomainEvent):
    """Pay, then deliver."""

    source: str
    coins: int
    refuse: bool = False


class ParcelCompleted(DomainEvent):
    """Delivered."""


class ParcelFailed(FailureEvent):
    """Neither paid nor delivered."""


class Parcel(Orchestrator[ParcelRequested, ParcelCompleted, ParcelFailed]):
    """A pivot between what can be undone and what is tried until it is done."""

    async def handle(self, event: ParcelRequested, saga: Saga) -> ParcelCompleted:
        """Take, the pivot, deliver."""
        await saga.execute(take(event.source, event.coins))
        await saga.pivot()
        await saga.execute(deliver("coins inside"))
        if event.refuse:
            raise Refused("parcel.refused", "asked to refuse after the pivot")
        return ParcelCompleted()


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


class Approval(Orchestrator[ApprovalRequested, ApprovalCompleted, ApprovalFailed]):
    """Waits for an event that is sent to it."""

    awaited = (Approved,)

    async def handle(self, event: ApprovalRequested, saga: Saga) -> ApprovalCompleted:
        """Take, wait, put."""
        await saga.execute(take("a", event.coins))
        said = await saga.wait_for(
            Approved,
            matching=lambda approved: approved.coins >= event.coins,
            timeout=timedelta(seconds=event.wait_seconds),
        )
        if said is None:
            raise Refused("approval.missing", "nobody agreed in time")
        await saga.execute(put("b", event.coins))
        return ApprovalCompleted(by=said.by)


class NapRequested(DomainEvent):
    """Move coins, with a pause."""

    coins: int
    seconds: float


class NapCompleted(DomainEvent):
    """Moved."""


class NapFailed(FailureEvent):
    """Not moved."""


class Nap(Orchestrator[NapRequested, NapCompleted, NapFailed]):
    """Sleeps between two steps."""

    async def handle(self, event: NapRequested, saga: Saga) -> NapCompleted:
        """Take, sleep, put."""
        await saga.execute(take("a", event.coins))
        await saga.sleep(timedelta(seconds=event.seconds))
        await saga.execute(put("b", event.coins))
        return NapCompleted()


class HurryRequested(DomainEvent):
    """Move coins before it is too late."""

    coins: int
    pivot: bool = False


class HurryCompleted(DomainEvent):
    """Moved."""


class HurryFailed(FailureEvent):
    """Not moved."""


class Hurry(Orchestrator[HurryRequested, HurryCompleted, HurryFailed]):
    """Has a deadline."""

    deadline = timedelta(seconds=2)

    async def handle(self, event: HurryRequested, saga: Saga) -> HurryCompleted:
        """Take, perhaps a pivot, deliver or put."""
        await saga.execute(take("a", event.coins))
        if event.pivot:
            await saga.pivot()
            await saga.execute(deliver("in time or not"))
        else:
            await saga.execute(put("b", event.coins))
        return HurryCompleted()


class FlawedRequested(DomainEvent):
    """Take coins."""

    coins: int


class FlawedCompleted(DomainEvent):
    """Taken."""


class FlawedFailed(FailureEvent):
    """Not taken."""


class Flawed(Orchestrator[FlawedRequested, FlawedCompleted, FlawedFailed]):
    """Has a bug, until a test mends it."""

    async def handle(self, event: FlawedRequested, saga: Saga) -> FlawedCompleted:
        """Take, and fall over."""
        await saga.execute(take("a", event.coins))
        if Plan.has_bug:
            raise ZeroDivisionError("a bug in handle")
        return FlawedCompleted()


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


class Bulky(Orchestrator[BulkyRequested, BulkyCompleted, BulkyFailed]):
    """Many steps, large results."""

    async def handle(self, event: BulkyRequested, saga: Saga) -> BulkyCompleted:
        """Ask, and count the letters."""
        texts = await saga.execute_all([lots(event.size)] * event.times, parallel=event.parallel)
        return BulkyCompleted(letters=sum(len(text) for text in texts))


class LateApprovalRequested(DomainEvent):
    """Deliver, and then ask who agrees."""

    wait_seconds: float = 60.0


class LateApprovalCompleted(DomainEvent):
    """Delivered."""

    by: str


class LateApprovalFailed(FailureEvent):
    """Not delivered."""


class LateApproval(Orchestrator[LateApprovalRequested, LateApprovalCompleted, LateApprovalFailed]):
    """Waits past its pivot."""

    awaited = (Approved,)

    async def handle(self, event: LateApprovalRequested, saga: Saga) -> LateApprovalCompleted:
        """The pivot, then the wait."""
        await saga.pivot()
        said = await saga.wait_for(Approved, timeout=timedelta(seconds=event.wait_seconds))
        return LateApprovalCompleted(by="nobody" if said is None else said.by)


class TurnTakingRequested(DomainEvent):
    """Move coins while holding keys."""

    keys: tuple[str, ...]
    ordering_key: str | None = None
    coins: int = 1


class TurnTakingCompleted(DomainEvent):
    """Moved."""


class TurnTakingFailed(FailureEvent):
    """Not moved."""


class TurnTaking(Orchestrator[TurnTakingRequested, TurnTakingCompleted, TurnTakingFailed]):
    """Sagas of one key, one after the other."""

    def locks(self, event: TurnTakingRequested) -> Sequence[str]:
        """What the event says."""
        return event.keys

    def ordering_key(self, event: TurnTakingRequested) -> str | None:
        """What the event says."""
        return event.ordering_key

    async def handle(self, event: TurnTakingRequested, saga: Saga) -> TurnTakingCompleted:
        """Take and put."""
        await saga.execute(take("a", event.coins))
        await saga.execute(put("b", event.coins))
        return TurnTakingCompleted()
