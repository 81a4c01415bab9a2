"""What is sent, by which door, in which order: decided by a seed, so that the same is sent again."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from uuid import uuid4

from orchestrator import DomainEvent
from orchestrator.protocol.envelope import wrap
from tests.doors.garbage import KINDS
from tests.doors.rings import Detail, OwnRingRequested, PooledRingRequested

DOORS = {"bus": 6, "signal": 5, "start": 4, "update": 5, "web": 2, "cli": 1, "outbox": 4}
"""Each with how much of everything comes by it."""
_ANYTHING_BY = [door for door in DOORS if door != "outbox"]
"""The outbox takes events alone: what is none is refused to whoever adds it."""
KINDS_OF_GOOD = (1, 3)
"""In an execution of its own, in a partition: the former takes a server many times as much."""
_WHEN = datetime(2026, 1, 1, 12, tzinfo=UTC)
REPEATED, BAD, REFUSED, REUSED = 0.10, 0.05, 0.05, 0.04
"""Parts of all events; of the bad ones the last is how many take a good one's id for other content."""


@dataclass(slots=True)
class Sending:
    """One message on its way."""

    number: int
    door: str
    orchestrator: str
    event_id: str
    """Its own; of garbage, the one from which it was made."""
    arguments: Sequence[bytes]
    kind: str = ""
    """Of garbage; empty for a good event."""
    by_type: bool = False
    """Who takes it looks for a listener: the bus, and the workflow that publishes."""
    into: str = ""
    """Id of a good event into whose own execution it goes."""
    after: str = ""
    """Id of a good event that must have been accepted before: its id is used again."""
    update_id: str = field(default_factory=lambda: str(uuid4()))
    attempts: int = 0
    refused: list[str] = field(default_factory=list[str])
    """What the sender was told: it was not accepted then."""

    @property
    def code(self) -> str:
        """Under which it has to be kept."""
        if self.kind == "an id used again":
            return "event.id_reused"
        found = KINDS[self.kind]
        if self.door == "bus" and self.kind == "nothing":
            return "event.not_json"
        return found.routed or found.code if self.by_type else found.code

    @property
    def kept(self) -> Sequence[bytes]:
        """The letters that it makes, if it is garbage."""
        return self.arguments or [b""]


@dataclass(frozen=True, slots=True)
class Plan:
    """All of a run."""

    sendings: Sequence[Sending]
    """In the order in which they are begun."""
    good: dict[str, bool]
    """Ids of good events, each with whether its saga is refused."""

    @property
    def bad(self) -> Sequence[Sending]:
        """Those that have to become dead letters."""
        return [one for one in self.sendings if one.kind]

    def by_door(self) -> Counter[str]:
        """How many come by each door."""
        return Counter(one.door for one in self.sendings)


def plan(*, seed: int, events: int, garbage: float = BAD) -> Plan:
    """The good ones, a tenth of all once more, and the bad ones among them, shuffled."""
    random = Random(f"doors/{seed}")
    bad = round(events * garbage)
    repeats = round(events * REPEATED)
    first = events - bad - repeats
    made: list[Sending] = []
    good: dict[str, bool] = {}
    for number in range(first):
        refuse = random.random() < REFUSED
        event_id = f"good-{seed}-{number:05}"
        good[event_id] = refuse
        made.append(_good(random, number, event_id, refuse))
    originals = list(made)
    for one in random.sample(originals, min(repeats, first)):
        again = _good(random, one.number, one.event_id, good[one.event_id])
        again.arguments, again.orchestrator = one.arguments, one.orchestrator
        made.append(again)
    kinds = list(KINDS)
    for number in range(bad):
        one = random.choice(originals)
        if number >= len(kinds) and random.random() < REUSED:
            made.append(_reused(random, one))
        else:
            kind = kinds[number] if number < len(kinds) else random.choice(kinds)
            made.append(_bad(random, number, one, kind, seed))
    random.shuffle(made)
    return Plan(made, good)


def _door(random: Random, among: Sequence[str] = ()) -> str:
    names = [name for name in DOORS if not among or name in among]
    return random.choices(names, weights=[DOORS[name] for name in names])[0]


def _good(random: Random, number: int, event_id: str, refuse: bool) -> Sending:
    kind: type[OwnRingRequested] | type[PooledRingRequested]
    kind = random.choices((OwnRingRequested, PooledRingRequested), weights=KINDS_OF_GOOD)[0]
    event: DomainEvent = kind(number=number, detail=Detail(text="ü" * random.randrange(50), number=1), refuse=refuse)
    text = wrap(event, event_id=event_id, source="doors", time=_WHEN).text
    door = _door(random)
    by_type = door in ("bus", "outbox") or (door in ("start", "web", "cli") and random.random() < 0.3)
    return Sending(number, door, kind.__name__.removesuffix("Requested"), event_id, [text.encode()], by_type=by_type)


def _bad(random: Random, number: int, one: Sending, kind: str, seed: int) -> Sending:
    found = KINDS[kind]
    door = _door(random, found.only or _ANYTHING_BY)
    message = json.loads(one.arguments[0])
    message["id"] = event_id = f"bad-{seed}-{number:05}"
    # With nothing at all there is no execution to send it to but a running one, or one of its own.
    into = one.event_id if door in ("signal", "update") and random.random() < 0.3 else ""
    by_type = door == "bus" or (door in ("start", "web", "cli") and kind != "a newer version" and random.random() < 0.3)
    arguments = found.make(message, random)
    return Sending(number, door, one.orchestrator, event_id, arguments, kind=kind, by_type=by_type, into=into)


def _reused(random: Random, one: Sending) -> Sending:
    message = json.loads(one.arguments[0])
    message["data"]["number"] += 1_000_000
    door = random.choice(("bus", "start"))
    return Sending(
        one.number,
        door,
        one.orchestrator,
        one.event_id,
        [json.dumps(message).encode()],
        kind="an id used again",
        by_type=door == "bus",
        after=one.event_id,
    )
