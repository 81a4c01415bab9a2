"""The cast's orchestrators."""

from collections.abc import Sequence
from datetime import timedelta

from orchestrator import Orchestrator, Refused, Saga
from tests.cast import Plan, count, deliver, lots, put, send_letter, take, write_note
from tests.cast_events import (
    ApprovalCompleted,
    ApprovalFailed,
    ApprovalRequested,
    Approved,
    AtomicMoveCompleted,
    AtomicMoveFailed,
    AtomicMoveRequested,
    BulkyCompleted,
    BulkyFailed,
    BulkyRequested,
    CoinsMoveCompleted,
    CoinsMoveFailed,
    CoinsMoveRequested,
    FlawedCompleted,
    FlawedFailed,
    FlawedRequested,
    HurryCompleted,
    HurryFailed,
    HurryRequested,
    LateApprovalCompleted,
    LateApprovalFailed,
    LateApprovalRequested,
    LetterCompleted,
    LetterFailed,
    LetterRequested,
    ManyNotesCompleted,
    ManyNotesFailed,
    ManyNotesRequested,
    NapCompleted,
    NapFailed,
    NapRequested,
    NothingCompleted,
    NothingFailed,
    NothingRequested,
    ParallelMoveCompleted,
    ParallelMoveFailed,
    ParallelMoveRequested,
    ParcelCompleted,
    ParcelFailed,
    ParcelRequested,
    TimedCompleted,
    TimedFailed,
    TimedRequested,
    TippedCompleted,
    TippedFailed,
    TippedRequested,
    TurnTakingCompleted,
    TurnTakingFailed,
    TurnTakingRequested,
)


class CoinsMove(Orchestrator[CoinsMoveRequested, CoinsMoveCompleted, CoinsMoveFailed]):
    """Three steps that can be undone."""

    async def handle(self, event: CoinsMoveRequested, saga: Saga) -> CoinsMoveCompleted:
        """Take, put, note."""
        taken, _, key = await saga.execute_batch(
            take(event.source, event.coins), put(event.target, event.coins), write_note(f"moved {event.coins}")
        )
        return CoinsMoveCompleted(coins=taken, note=key)


class Letter(Orchestrator[LetterRequested, LetterCompleted, LetterFailed]):
    """A step that can be undone, then one that cannot."""

    async def handle(self, event: LetterRequested, saga: Saga) -> LetterCompleted:
        """Take, send."""
        await saga.execute(take(event.source, event.coins))
        await saga.execute(send_letter("coins inside"))
        return LetterCompleted()


class Nothing(Orchestrator[NothingRequested, NothingCompleted, NothingFailed]):
    """A saga of no steps."""

    async def handle(self, event: NothingRequested, saga: Saga) -> NothingCompleted:
        """Refuse, or not."""
        if event.refuse:
            raise Refused("nothing.refused", "asked to refuse")
        return NothingCompleted()


class ParallelMove(Orchestrator[ParallelMoveRequested, ParallelMoveCompleted, ParallelMoveFailed]):
    """Steps at once, the first of the saga among them."""

    async def handle(self, event: ParallelMoveRequested, saga: Saga) -> ParallelMoveCompleted:
        """Count, take and put at once."""
        before, _, _ = await saga.execute_batch(
            count(event.source), take(event.source, event.coins), put(event.target, event.coins), parallel=True
        )
        return ParallelMoveCompleted(before=before)


class AtomicMove(Orchestrator[AtomicMoveRequested, AtomicMoveCompleted, AtomicMoveFailed]):
    """Operations and a query that are one step, and a step after it."""

    async def handle(self, event: AtomicMoveRequested, saga: Saga) -> AtomicMoveCompleted:
        """Count, take and put; then note."""
        before, _, _ = await saga.execute_atomically(
            count(event.source), take(event.source, event.coins), put(event.target, event.coins)
        )
        key = await saga.execute(write_note(f"moved {event.coins}"))
        return AtomicMoveCompleted(before=before, note=key)


class Timed(Orchestrator[TimedRequested, TimedCompleted, TimedFailed]):
    """Its steps depend on the event's time."""

    async def handle(self, event: TimedRequested, saga: Saga) -> TimedCompleted:
        """Two notes of the day."""
        day = saga.event_time.date().isoformat()
        await saga.execute(write_note(day))
        await saga.execute(write_note(f"still {day}"))
        return TimedCompleted(year_day=day)


class Tipped(Orchestrator[TippedRequested, TippedCompleted, TippedFailed]):
    """For events that were sent before and after the field came."""

    async def handle(self, event: TippedRequested, saga: Saga) -> TippedCompleted:
        """Take ten, and the tip."""
        await saga.execute(take(event.name, 10 + event.tip))
        return TippedCompleted()


class ManyNotes(Orchestrator[ManyNotesRequested, ManyNotesCompleted, ManyNotesFailed]):
    """A saga's first steps at once; an instance counts what it did."""

    def __init__(self) -> None:
        self.written = 0

    async def handle(self, event: ManyNotesRequested, saga: Saga) -> ManyNotesCompleted:
        """Write each note."""
        self.written += event.notes
        await saga.execute_all([write_note(f"{n} of {self.written}") for n in range(event.notes)], parallel=True)
        return ManyNotesCompleted()


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


class Nap(Orchestrator[NapRequested, NapCompleted, NapFailed]):
    """Sleeps between two steps."""

    async def handle(self, event: NapRequested, saga: Saga) -> NapCompleted:
        """Take, sleep, put."""
        await saga.execute(take("a", event.coins))
        await saga.sleep(timedelta(seconds=event.seconds))
        await saga.execute(put("b", event.coins))
        return NapCompleted()


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


class Flawed(Orchestrator[FlawedRequested, FlawedCompleted, FlawedFailed]):
    """Has a bug, until a test mends it."""

    async def handle(self, event: FlawedRequested, saga: Saga) -> FlawedCompleted:
        """Take, and fall over."""
        await saga.execute(take("a", event.coins))
        if Plan.has_bug:
            raise ZeroDivisionError("a bug in handle")
        return FlawedCompleted()


class Bulky(Orchestrator[BulkyRequested, BulkyCompleted, BulkyFailed]):
    """Many steps, large results."""

    async def handle(self, event: BulkyRequested, saga: Saga) -> BulkyCompleted:
        """Ask, and count the letters."""
        texts = await saga.execute_all([lots(event.size)] * event.times, parallel=event.parallel)
        return BulkyCompleted(letters=sum(len(text) for text in texts))


class LateApproval(Orchestrator[LateApprovalRequested, LateApprovalCompleted, LateApprovalFailed]):
    """Waits past its pivot."""

    awaited = (Approved,)

    async def handle(self, event: LateApprovalRequested, saga: Saga) -> LateApprovalCompleted:
        """The pivot, then the wait."""
        await saga.pivot()
        said = await saga.wait_for(Approved, timeout=timedelta(seconds=event.wait_seconds))
        return LateApprovalCompleted(by="nobody" if said is None else said.by)


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
