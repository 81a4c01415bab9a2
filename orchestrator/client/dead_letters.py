"""Dead letters for whoever looks after them: what replaying one would do, the replay, an edited copy, the end of one.

A replay publishes the kept message as it stands, under its own event id: doing it twice, or dying half way, does what
doing it once does. The letter is settled afterwards, by compare-and-set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from orchestrator.client.bus import EventBus
from orchestrator.client.validation import Addressed, address
from orchestrator.errors import EventRejected
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.envelope import VERSION_NEWER, saga_id
from orchestrator.protocol.unwrapping import id_reused, is_same_event
from orchestrator.store.core.database import Database
from orchestrator.store.dead_letters.resolution import (
    LetterView,
    Search,
    Settled,
    claim_for_replay,
    count_letters,
    find_letters,
    give_up_replay,
    keep_edited,
    letter_of,
    settle_letter,
)
from orchestrator.store.recovery import RecordedSaga, recorded_sagas

EDITED = "event.edited"
"""Code of an edited copy with which nothing is wrong any more."""


class ReplayForecast(StrEnum):
    """What a replay does, or would do."""

    STARTS = "starts"
    """Somebody who listens has not had the event yet."""
    REPEATS = "repeats"
    """All who listen have had it: nothing is done again."""
    REFUSED = "refused"
    """It cannot be taken, and stays as it is."""
    SETTLED = "settled"
    """Somebody has settled it already."""
    UNDER_WAY = "under_way"
    """Somebody is replaying it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a replay of a letter does, or would do."""

    letter: LetterView
    fate: ReplayForecast
    event_type: str = ""
    event_id: str = ""
    starts: tuple[str, ...] = ()
    """Orchestrators that have not had the event yet."""
    stands: Mapping[str, Phase] | None = None
    """Those that have, with where their sagas stand."""
    code: str = ""
    reason: str = ""
    """If it is refused; or how it was settled."""

    @property
    def sentence(self) -> str:
        """In a line."""
        match self.fate:
            case ReplayForecast.REFUSED:
                return f"refused again: {self.code}: {self.reason}"
            case ReplayForecast.SETTLED:
                return f"settled already: {self.reason}"
            case ReplayForecast.UNDER_WAY:
                return "somebody is replaying it just now"
            case ReplayForecast.STARTS | ReplayForecast.REPEATS:
                said = [f"starts {', '.join(self.starts)}"] if self.starts else []
                said += [f"repeats what {name} has as {phase.value}" for name, phase in (self.stands or {}).items()]
                return f"{self.event_type} {self.event_id} {'; '.join(said)}"


class DeadLetters:
    """The dead letters of an application.

        letters = DeadLetters(database, bus)
        for letter in await letters.find(Search(code="event.unknown_type")):
            print((await letters.foresee(letter.id)).sentence)

    Args:
        database: the home database.
        bus: publishes what is replayed; its catalog says what can be read.
    """

    def __init__(self, database: Database, bus: EventBus) -> None:
        self._database = database
        self._bus = bus

    async def find(self, search: Search) -> Sequence[LetterView]:
        """Letters, the newest first, each with the beginning of its message.

        Raises:
            Unreachable: the database cannot be reached.
        """
        return await find_letters(self._database, search)

    async def count(self, search: Search) -> int:
        """How many a search finds, whatever its limit.

        Raises:
            Unreachable: the database cannot be reached.
        """
        return await count_letters(self._database, search)

    async def get(self, number: int) -> LetterView | None:
        """A letter, whole.

        Raises:
            Unreachable: the database cannot be reached.
        """
        return await letter_of(self._database, number)

    async def foresee(self, number: int) -> Verdict | None:
        """What a replay would do as things stand, and changes nothing; None if there is no such letter.

        Raises:
            Unreachable: the database cannot be reached.
        """
        letter = await self.get(number)
        return None if letter is None else await self._judge(letter)

    async def replay(self, number: int, *, by: str) -> Verdict | None:
        """Publish a letter's message under its event id, and settle the letter.

        What cannot be taken stays open, as it was. Safe to repeat and to interrupt.

        Args:
            number: the letter's.
            by: who says so; kept with it.

        Raises:
            PublishIncomplete, Unreachable: it may have been taken or not; replay it again.
        """
        letter = await self.get(number)
        if letter is None:
            return None
        verdict = await self._judge(letter)
        if verdict.fate not in (ReplayForecast.STARTS, ReplayForecast.REPEATS):
            return verdict
        claim = await claim_for_replay(self._database, number, by=by)
        if claim is None:
            return await self.foresee(number)
        try:
            await self._bus.publish_envelope(letter.raw)
        except EventRejected as fault:
            await give_up_replay(self._database, number, claim)
            return Verdict(letter=letter, fate=ReplayForecast.REFUSED, code=fault.code, reason=fault.message)
        except BaseException:
            await give_up_replay(self._database, number, claim)
            raise
        await settle_letter(self._database, number, f"replayed by {by}: {verdict.sentence}", heeds_claims=False)
        return verdict

    async def drop(self, number: int, *, by: str, reason: str) -> Settled:
        """Settle a letter that nobody will replay; it stays in the table, with who said so and why.

        Raises:
            Unreachable: the database cannot be reached.
        """
        return await settle_letter(self._database, number, f"dropped by {by}: {reason}", heeds_claims=True)

    async def edit(self, letter: LetterView, raw: bytes, *, by: str) -> Verdict | None:
        """Keep an edited copy as a letter of its own. The one that it is of is settled, and stays as it came.

        Returns:
            What a replay of the copy would do; None if the letter was settled before, or is being replayed.

        Raises:
            Unreachable: the database cannot be reached.
        """
        try:
            address(self._bus.catalog, raw)
        except EventRejected as fault:
            code, reason = fault.code, fault.message
        else:
            code, reason = EDITED, f"{letter.id}, edited by {by}: replay it"
        number = await keep_edited(self._database, letter, raw, by=by, code=code, reason=reason)
        return None if number is None else await self.foresee(number)

    async def _judge(self, letter: LetterView) -> Verdict:
        if not letter.is_open:
            return Verdict(letter=letter, fate=ReplayForecast.SETTLED, reason=letter.settled_as or "")
        if not letter.is_whole:
            reason = f"{letter.kept:,} of {letter.size:,} bytes have arrived so far"
            return Verdict(letter=letter, fate=ReplayForecast.REFUSED, code=letter.code, reason=reason)
        try:
            addressed = address(self._bus.catalog, letter.raw)
            _refuse_newer(addressed)
            known = await self._known(addressed)
        except EventRejected as fault:
            return Verdict(letter=letter, fate=ReplayForecast.REFUSED, code=fault.code, reason=fault.message)
        names = [one.__name__ for one in addressed.listeners]
        stands = {recorded.orchestrator: recorded.phase for recorded in known.values()}
        starts = tuple(name for name in names if name not in stands)
        return Verdict(
            letter=letter,
            fate=ReplayForecast.STARTS if starts else ReplayForecast.REPEATS,
            event_type=addressed.envelope.event_type,
            event_id=addressed.envelope.event_id,
            starts=starts,
            stands=stands,
        )

    async def _known(self, addressed: Addressed) -> Mapping[UUID, RecordedSaga]:
        envelope = addressed.envelope
        ids = [saga_id(one.__name__, envelope.event_id) for one in addressed.listeners]
        known = await recorded_sagas(self._database, ids)
        for recorded in known.values():
            classes = [one for listener in addressed.listeners for one in listener.requests]
            if not is_same_event(envelope, recorded.content_digest, recorded.envelope, *classes):
                fault = id_reused(envelope.event_id)
                raise EventRejected(fault.code, f"{fault.message}: edit the dead letter")
        return known


def _refuse_newer(addressed: Addressed) -> None:
    if addressed.event is None:
        envelope = addressed.envelope
        raise EventRejected(
            VERSION_NEWER,
            f"{envelope.event_type} is of version {envelope.version}, which this code does not know: deploy the code "
            "that does first",
        )
