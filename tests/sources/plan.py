"""What is sent, through which source and in which order; all of it follows from a seed, so a run can be repeated."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from uuid import uuid4

from orchestrator import DomainEvent
from orchestrator.protocol.messages.envelope import wrap
from tests.sources.garbage import KINDS
from tests.sources.orchestrators import Detail, OwnMarkRequested, PooledMarkRequested

SOURCES = {"bus": 6, "signal": 5, "start": 4, "update": 5, "web": 2, "cli": 1, "outbox": 4}
"""The sources, each with its relative share of the messages."""
_ANYTHING_BY = [source for source in SOURCES if source != "outbox"]
"""Sources that accept any bytes. The outbox accepts only events and raises for anything else."""
KIND_WEIGHTS = (1, 3)
"""Shares of own executions and of partitions; an own execution costs the server many times as much."""
_WHEN = datetime(2026, 1, 1, 12, tzinfo=UTC)
REPEATED, BAD, REFUSED, REUSED = 0.10, 0.05, 0.05, 0.04
"""Shares of all messages; `REUSED` is the share of bad messages that reuse a good event's id for other content."""


@dataclass(slots=True)
class Sending:
    """One message to send."""

    number: int
    source: str
    orchestrator: str
    event_id: str
    """The message's own id; for garbage, the id of the valid message it was made from."""
    arguments: Sequence[bytes]
    kind: str = ""
    """The kind of garbage; empty for a good event."""
    by_type: bool = False
    """Whether the receiver looks up the listener by event type, as the bus and the publishing workflow do."""
    into: str = ""
    """Id of a good event whose own execution receives the message."""
    after: str = ""
    """Id of a good event that must have been accepted before, because the message reuses its id."""
    update_id: str = field(default_factory=lambda: str(uuid4()))
    attempts: int = 0
    refused: list[str] = field(default_factory=list[str])
    """Rejections that the sender received."""

    @property
    def code(self) -> str:
        """The error code of its dead letter."""
        if self.kind == "a reused id":
            return "event.id_reused"
        kind = KINDS[self.kind]
        if self.source == "bus" and self.kind == "nothing":
            return "event.not_json"
        return kind.routed or kind.code if self.by_type else kind.code

    @property
    def letters(self) -> Sequence[bytes]:
        """The contents of the dead letters that it becomes, if it is garbage."""
        return self.arguments or [b""]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a run sends."""

    sendings: Sequence[Sending]
    """In the order in which sending starts."""
    good: dict[str, bool]
    """Ids of good events, each with whether its saga is refused."""

    @property
    def bad(self) -> Sequence[Sending]:
        """Messages that must become dead letters."""
        return [sending for sending in self.sendings if sending.kind]

    def by_source(self) -> Counter[str]:
        """How many messages each source sends."""
        return Counter(sending.source for sending in self.sendings)


def plan(*, seed: int, events: int, garbage: float = BAD) -> Plan:
    """Draw good events, repeats of some of them and bad messages, and shuffle them."""
    random = Random(f"sources/{seed}")
    bad = round(events * garbage)
    repeats = round(events * REPEATED)
    first = events - bad - repeats
    sendings: list[Sending] = []
    good: dict[str, bool] = {}
    for number in range(first):
        refuse = random.random() < REFUSED
        event_id = f"good-{seed}-{number:05}"
        good[event_id] = refuse
        sendings.append(_good(random, number, event_id, refuse))
    originals = list(sendings)
    for original in random.sample(originals, min(repeats, first)):
        repeat = _good(random, original.number, original.event_id, good[original.event_id])
        repeat.arguments, repeat.orchestrator = original.arguments, original.orchestrator
        sendings.append(repeat)
    kinds = list(KINDS)
    for number in range(bad):
        original = random.choice(originals)
        if number >= len(kinds) and random.random() < REUSED:
            sendings.append(_reused(random, original))
        else:
            kind = kinds[number] if number < len(kinds) else random.choice(kinds)
            sendings.append(_bad(random, number, original, kind, seed))
    random.shuffle(sendings)
    return Plan(sendings, good)


def _source(random: Random, among: Sequence[str] = ()) -> str:
    names = [name for name in SOURCES if not among or name in among]
    return random.choices(names, weights=[SOURCES[name] for name in names])[0]


def _good(random: Random, number: int, event_id: str, refuse: bool) -> Sending:
    kind: type[OwnMarkRequested] | type[PooledMarkRequested]
    kind = random.choices((OwnMarkRequested, PooledMarkRequested), weights=KIND_WEIGHTS)[0]
    event: DomainEvent = kind(number=number, detail=Detail(text="ü" * random.randrange(50), number=1), refuse=refuse)
    text = wrap(event, event_id=event_id, source="sources", time=_WHEN).text
    source = _source(random)
    by_type = source in ("bus", "outbox") or (source in ("start", "web", "cli") and random.random() < 0.3)
    return Sending(number, source, kind.__name__.removesuffix("Requested"), event_id, [text.encode()], by_type=by_type)


def _bad(random: Random, number: int, original: Sending, kind_name: str, seed: int) -> Sending:
    kind = KINDS[kind_name]
    source = _source(random, kind.only or _ANYTHING_BY)
    message = json.loads(original.arguments[0])
    message["id"] = event_id = f"bad-{seed}-{number:05}"
    # A message without an id can only go to a running execution or to one started for it.
    into = original.event_id if source in ("signal", "update") and random.random() < 0.3 else ""
    by_type = source == "bus" or (
        source in ("start", "web", "cli") and kind_name != "a newer version" and random.random() < 0.3
    )
    arguments = kind.make(message, random)
    return Sending(
        number, source, original.orchestrator, event_id, arguments, kind=kind_name, by_type=by_type, into=into
    )


def _reused(random: Random, original: Sending) -> Sending:
    message = json.loads(original.arguments[0])
    message["data"]["number"] += 1_000_000
    source = random.choice(("bus", "start"))
    return Sending(
        original.number,
        source,
        original.orchestrator,
        original.event_id,
        [json.dumps(message).encode()],
        kind="a reused id",
        by_type=source == "bus",
        after=original.event_id,
    )
