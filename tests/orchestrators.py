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
        coins, _, key = await saga.execute_all(
            take(event.source, event.coins), put(event.target, event.coins), write_note(f"moved {event.coins}")
        )
        return CoinsMoveCompleted(coins=coins, note=key)


class Letter(Orchestrator[LetterRequested, LetterCompleted, LetterFailed]):
    """A step that can be undone, followed by an irreversible one."""

    async def handle(self, event: LetterRequested, saga: Saga) -> LetterCompleted:
        await saga.execute(take(event.source, event.coins))
        await saga.execute(send_letter("coins inside"))
        return LetterCompleted()


class Nothing(Orchestrator[NothingRequested, NothingCompleted, NothingFailed]):
    """A saga without steps."""

    async def handle(self, event: NothingRequested, saga: Saga) -> NothingCompleted:
        if event.refuse:
            raise Refused("nothing.refused", "asked to refuse")
        return NothingCompleted()


class ParallelMove(Orchestrator[ParallelMoveRequested, ParallelMoveCompleted, ParallelMoveFailed]):
    """Parallel steps, which are the first steps of the saga."""

    async def handle(self, event: ParallelMoveRequested, saga: Saga) -> ParallelMoveCompleted:
        before, _, _ = await saga.execute_all(
            count(event.source), take(event.source, event.coins), put(event.target, event.coins), parallel=True
        )
        return ParallelMoveCompleted(before=before)


class AtomicMove(Orchestrator[AtomicMoveRequested, AtomicMoveCompleted, AtomicMoveFailed]):
    """One atomic step of two operations and a query, followed by another step."""

    async def handle(self, event: AtomicMoveRequested, saga: Saga) -> AtomicMoveCompleted:
        before, _, _ = await saga.execute_atomically(
            count(event.source), take(event.source, event.coins), put(event.target, event.coins)
        )
        key = await saga.execute(write_note(f"moved {event.coins}"))
        return AtomicMoveCompleted(before=before, note=key)


class Timed(Orchestrator[TimedRequested, TimedCompleted, TimedFailed]):
    """Its steps depend on the time of the event."""

    async def handle(self, event: TimedRequested, saga: Saga) -> TimedCompleted:
        day = saga.event_time.date().isoformat()
        await saga.execute(write_note(day))
        await saga.execute(write_note(f"still {day}"))
        return TimedCompleted(year_day=day)


class Tipped(Orchestrator[TippedRequested, TippedCompleted, TippedFailed]):
    """Handles events from before and after their contract got the field `tip`."""

    async def handle(self, event: TippedRequested, saga: Saga) -> TippedCompleted:
        await saga.execute(take(event.name, 10 + event.tip))
        return TippedCompleted()


class ManyNotes(Orchestrator[ManyNotesRequested, ManyNotesCompleted, ManyNotesFailed]):
    """Parallel first steps that depend on a counter of the instance."""

    def __init__(self) -> None:
        self.written = 0

    async def handle(self, event: ManyNotesRequested, saga: Saga) -> ManyNotesCompleted:
        self.written += event.notes
        await saga.execute_all(*[write_note(f"{n} of {self.written}") for n in range(event.notes)], parallel=True)
        return ManyNotesCompleted()


class Parcel(Orchestrator[ParcelRequested, ParcelCompleted, ParcelFailed]):
    """A pivot between a step that can be undone and one that is retried until it succeeds."""

    async def handle(self, event: ParcelRequested, saga: Saga) -> ParcelCompleted:
        await saga.execute(take(event.source, event.coins))
        await saga.pivot()
        await saga.execute(deliver("coins inside"))
        if event.refuse:
            raise Refused("parcel.refused", "asked to refuse after the pivot")
        return ParcelCompleted()


class Approval(Orchestrator[ApprovalRequested, ApprovalCompleted, ApprovalFailed]):
    """Waits for an event that is sent to the saga."""

    awaited = (Approved,)

    async def handle(self, event: ApprovalRequested, saga: Saga) -> ApprovalCompleted:
        await saga.execute(take("a", event.coins))
        approved = await saga.wait_for(
            Approved,
            matching=lambda answer: answer.coins >= event.coins,
            timeout=timedelta(seconds=event.wait_seconds),
        )
        if approved is None:
            raise Refused("approval.missing", "no approval arrived in time")
        await saga.execute(put("b", event.coins))
        return ApprovalCompleted(by=approved.by)


class Nap(Orchestrator[NapRequested, NapCompleted, NapFailed]):
    """Sleeps between two steps."""

    async def handle(self, event: NapRequested, saga: Saga) -> NapCompleted:
        await saga.execute(take("a", event.coins))
        await saga.sleep(timedelta(seconds=event.seconds))
        await saga.execute(put("b", event.coins))
        return NapCompleted()


class Hurry(Orchestrator[HurryRequested, HurryCompleted, HurryFailed]):
    """Has a deadline of two seconds."""

    deadline = timedelta(seconds=2)

    async def handle(self, event: HurryRequested, saga: Saga) -> HurryCompleted:
        await saga.execute(take("a", event.coins))
        if event.pivot:
            await saga.pivot()
            await saga.execute(deliver("in time or not"))
        else:
            await saga.execute(put("b", event.coins))
        return HurryCompleted()


class Flawed(Orchestrator[FlawedRequested, FlawedCompleted, FlawedFailed]):
    """Has a bug while a test sets `Plan.has_bug`."""

    async def handle(self, event: FlawedRequested, saga: Saga) -> FlawedCompleted:
        await saga.execute(take("a", event.coins))
        if Plan.has_bug:
            raise ZeroDivisionError("a bug in handle")
        return FlawedCompleted()


class Bulky(Orchestrator[BulkyRequested, BulkyCompleted, BulkyFailed]):
    """Many steps with large results."""

    async def handle(self, event: BulkyRequested, saga: Saga) -> BulkyCompleted:
        texts = await saga.execute_all(*[lots(event.size)] * event.times, parallel=event.parallel)
        return BulkyCompleted(letters=sum(len(text) for text in texts))


class LateApproval(Orchestrator[LateApprovalRequested, LateApprovalCompleted, LateApprovalFailed]):
    """Waits for an event after its pivot."""

    awaited = (Approved,)

    async def handle(self, event: LateApprovalRequested, saga: Saga) -> LateApprovalCompleted:
        await saga.pivot()
        approved = await saga.wait_for(Approved, timeout=timedelta(seconds=event.wait_seconds))
        return LateApprovalCompleted(by="nobody" if approved is None else approved.by)


class TurnTaking(Orchestrator[TurnTakingRequested, TurnTakingCompleted, TurnTakingFailed]):
    """Sagas that share lock keys or an ordering key run one after the other."""

    def locks(self, event: TurnTakingRequested) -> Sequence[str]:
        return event.keys

    def ordering_key(self, event: TurnTakingRequested) -> str | None:
        return event.ordering_key

    async def handle(self, event: TurnTakingRequested, saga: Saga) -> TurnTakingCompleted:
        await saga.execute(take("a", event.coins))
        await saga.execute(put("b", event.coins))
        return TurnTakingCompleted()
