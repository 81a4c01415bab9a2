"""Managing dead letters: finding them, forecasting a replay, replaying, editing and dropping them.

A replay publishes the stored message unchanged under its own event id, so a replay that is repeated or interrupted has
the same effect as a single one. The dead letter is settled afterwards, by compare-and-set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from orchestrator.client.bus import EventBus
from orchestrator.client.publishing.event_checks import Addressed, address
from orchestrator.errors import EventRejected
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.messages.envelope import VERSION_NEWER, saga_id
from orchestrator.protocol.messages.unwrapping import id_reused, is_same_event
from orchestrator.store.core.database import Database
from orchestrator.store.dead_letters.resolution import (
    Search,
    Settled,
    StoredDeadLetter,
    claim_for_replay,
    count_dead_letters,
    find_dead_letters,
    give_up_replay,
    read_dead_letter,
    settle_dead_letter,
    store_edited_copy,
)
from orchestrator.store.recovery import RecordedSaga, recorded_sagas

EDITED = "event.edited"
"""The code of a dead letter that is an edited copy of another one and is now valid."""


class ReplayEffect(StrEnum):
    """What a replay does, or would do."""

    STARTS = "starts"
    """At least one listener has not had the event yet, so it starts a saga."""
    REPEATS = "repeats"
    """All listeners already have the event, so nothing is done again."""
    REFUSED = "refused"
    """The message is rejected again, and the dead letter stays open."""
    SETTLED = "settled"
    """The dead letter has already been settled."""
    UNDER_WAY = "under_way"
    """Another replay of the dead letter is running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayForecast:
    """What a replay of a dead letter does or would do, with the details."""

    letter: StoredDeadLetter
    effect: ReplayEffect
    event_type: str = ""
    event_id: str = ""
    starts: tuple[str, ...] = ()
    """Orchestrators that do not have the event yet."""
    phases: Mapping[str, Phase] | None = None
    """Orchestrators that already have the event, each with the phase of its saga."""
    code: str = ""
    reason: str = ""
    """Why the message is refused, or how the dead letter was settled."""

    @property
    def sentence(self) -> str:
        """The forecast in one line."""
        match self.effect:
            case ReplayEffect.REFUSED:
                return f"refused again: {self.code}: {self.reason}"
            case ReplayEffect.SETTLED:
                return f"already settled: {self.reason}"
            case ReplayEffect.UNDER_WAY:
                return "being replayed by another process"
            case ReplayEffect.STARTS | ReplayEffect.REPEATS:
                effects = [f"starts {', '.join(self.starts)}"] if self.starts else []
                effects += [f"repeats what {name} has as {phase.value}" for name, phase in (self.phases or {}).items()]
                return f"{self.event_type} {self.event_id} {'; '.join(effects)}"


class DeadLetters:
    """The dead letters of an application.

        letters = DeadLetters(database, bus)
        for letter in await letters.find(Search(code="event.unknown_type")):
            print((await letters.forecast_replay(letter.id)).sentence)

    Args:
        database: the home database.
        bus: publishes the replayed messages; its catalog determines which events are known.
    """

    def __init__(self, database: Database, bus: EventBus) -> None:
        self._database = database
        self._bus = bus

    async def find(self, search: Search) -> Sequence[StoredDeadLetter]:
        """Return dead letters, the newest first, each with only the beginning of its message.

        Raises:
            Unreachable: the database cannot be reached.
        """
        return await find_dead_letters(self._database, search)

    async def count(self, search: Search) -> int:
        """Return how many dead letters match a search, regardless of its limit.

        Raises:
            Unreachable: the database cannot be reached.
        """
        return await count_dead_letters(self._database, search)

    async def get(self, number: int) -> StoredDeadLetter | None:
        """Return one dead letter with its whole message; None if it does not exist.

        Raises:
            Unreachable: the database cannot be reached.
        """
        return await read_dead_letter(self._database, number)

    async def forecast_replay(self, number: int) -> ReplayForecast | None:
        """Forecast what a replay would do now, without changing anything; None if the dead letter does not exist.

        Raises:
            Unreachable: the database cannot be reached.
        """
        letter = await self.get(number)
        return None if letter is None else await self._forecast(letter)

    async def replay(self, number: int, *, by: str) -> ReplayForecast | None:
        """Publish a dead letter's message under its event id, and settle the dead letter.

        If the message is rejected again, the dead letter stays open and unchanged. Safe to repeat and to interrupt.

        Args:
            number: the number of the dead letter.
            by: the person who replays it; recorded with the dead letter.

        Raises:
            PublishIncomplete, Unreachable: the message may or may not have been accepted; replay it again.
        """
        letter = await self.get(number)
        if letter is None:
            return None
        forecast = await self._forecast(letter)
        if forecast.effect not in (ReplayEffect.STARTS, ReplayEffect.REPEATS):
            return forecast
        claim = await claim_for_replay(self._database, number, by=by)
        if claim is None:
            return await self.forecast_replay(number)
        try:
            await self._bus.publish_envelope(letter.raw)
        except EventRejected as fault:
            await give_up_replay(self._database, number, claim)
            return ReplayForecast(letter=letter, effect=ReplayEffect.REFUSED, code=fault.code, reason=fault.message)
        except BaseException:
            await give_up_replay(self._database, number, claim)
            raise
        await settle_dead_letter(self._database, number, f"replayed by {by}: {forecast.sentence}", heeds_claims=False)
        return forecast

    async def drop(self, number: int, *, by: str, reason: str) -> Settled:
        """Settle a dead letter without a replay; it stays in the table, with the person and the reason.

        Raises:
            Unreachable: the database cannot be reached.
        """
        return await settle_dead_letter(self._database, number, f"dropped by {by}: {reason}", heeds_claims=True)

    async def edit(self, letter: StoredDeadLetter, raw: bytes, *, by: str) -> ReplayForecast | None:
        """Store an edited copy as a new dead letter; the original is settled and left unchanged.

        Returns:
            What a replay of the copy would do; None if the original was already settled or is being replayed.

        Raises:
            Unreachable: the database cannot be reached.
        """
        try:
            address(self._bus.catalog, raw)
        except EventRejected as fault:
            code, reason = fault.code, fault.message
        else:
            code, reason = EDITED, f"a copy of {letter.id}, edited by {by}; replay it"
        number = await store_edited_copy(self._database, letter, raw, by=by, code=code, reason=reason)
        return None if number is None else await self.forecast_replay(number)

    async def _forecast(self, letter: StoredDeadLetter) -> ReplayForecast:
        if not letter.is_open:
            return ReplayForecast(letter=letter, effect=ReplayEffect.SETTLED, reason=letter.settled_as or "")
        if not letter.is_whole:
            reason = f"only {letter.stored_size:,} of {letter.size:,} bytes have arrived so far"
            return ReplayForecast(letter=letter, effect=ReplayEffect.REFUSED, code=letter.code, reason=reason)
        try:
            addressed = address(self._bus.catalog, letter.raw)
            _refuse_newer(addressed)
            known = await self._known(addressed)
        except EventRejected as fault:
            return ReplayForecast(letter=letter, effect=ReplayEffect.REFUSED, code=fault.code, reason=fault.message)
        names = [listener.__name__ for listener in addressed.listeners]
        phases = {recorded.orchestrator: recorded.phase for recorded in known.values()}
        starts = tuple(name for name in names if name not in phases)
        return ReplayForecast(
            letter=letter,
            effect=ReplayEffect.STARTS if starts else ReplayEffect.REPEATS,
            event_type=addressed.envelope.event_type,
            event_id=addressed.envelope.event_id,
            starts=starts,
            phases=phases,
        )

    async def _known(self, addressed: Addressed) -> Mapping[UUID, RecordedSaga]:
        envelope = addressed.envelope
        ids = [saga_id(listener.__name__, envelope.event_id) for listener in addressed.listeners]
        known = await recorded_sagas(self._database, ids)
        for recorded in known.values():
            classes = [event for listener in addressed.listeners for event in listener.requests]
            if not is_same_event(envelope, recorded.content_digest, recorded.envelope, *classes):
                fault = id_reused(envelope.event_id)
                raise EventRejected(fault.code, f"{fault.message}: edit the dead letter")
        return known


def _refuse_newer(addressed: Addressed) -> None:
    if addressed.event is None:
        envelope = addressed.envelope
        raise EventRejected(
            VERSION_NEWER,
            f"{envelope.event_type} has version {envelope.version}, which this code does not know. First deploy the "
            "code that does",
        )
