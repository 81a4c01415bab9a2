"""The counting at the end: every accepted event against what the database holds. The books are read first, then judged.

What is due comes from the events alone, so that a record that is missing or double cannot hide its own effect.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from sqlalchemy import Table, select

from orchestrator.protocol.commands import Outcome, Phase, StepState
from orchestrator.protocol.envelope import read
from orchestrator.protocol.names import partition_for
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga, saga_dead_letter, saga_lock, saga_outbox, saga_step
from tests.chaos.accounts import JOURNAL, account, entry, journal_entry
from tests.chaos.load import BALANCE
from tests.chaos.transfers import OrderedTransfers, Transfer

Row = Mapping[str, Any]
ORDERED_PARTITIONS = OrderedTransfers.partitions or 1


@dataclass(frozen=True, slots=True)
class Books:
    """What the database holds."""

    accounts: list[Row]
    entries: list[Row]
    """Of home and the journal, in the order in which they were written in each."""
    sagas: list[Row]
    sent: list[Row]
    tickets: int
    """Of locks that are held or waited for."""
    letters: list[Row]
    steps: list[Row]
    """Of all sagas, at home."""

    @classmethod
    async def of(cls, databases: Databases) -> "Books":
        """As it stands."""
        database = databases.home
        return cls(
            accounts=await _rows(database, account),
            entries=[*await _rows(database, entry), *await _rows(databases.named(JOURNAL), journal_entry)],
            sagas=await _rows(database, saga),
            sent=await _rows(database, saga_outbox),
            tickets=len([row for row in await _rows(database, saga_lock) if row["ticket"] > 0]),
            letters=await _rows(database, saga_dead_letter),
            steps=await _rows(database, saga_step),
        )

    @property
    def begun(self) -> set[Any]:
        """Ids of sagas with a step."""
        return {row["saga_id"] for row in self.steps}

    @property
    def open_sagas(self) -> list[Row]:
        """Those without an end."""
        return [row for row in self.sagas if not Phase(row["phase"]).is_final]

    @property
    def stuck_sagas(self) -> list[Row]:
        """Those that wait for a person."""
        return [row for row in self.sagas if row["stuck_since"] is not None]


@dataclass(slots=True)
class Findings:
    """What is wrong, a sentence each."""

    lost: list[str] = field(default_factory=list[str])
    """Accepted events without outcome, effects that are missing, undos that are missing."""
    doubled: list[str] = field(default_factory=list[str])
    """Outcomes, effects and undos that are there more than once."""
    wedged: list[str] = field(default_factory=list[str])
    """What does not end."""
    wrong: list[str] = field(default_factory=list[str])
    """Money, order, locks, letters, and outcomes that the event does not allow: each comes of one of the others, or of
    something that none of them sees."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.wedged or self.wrong)

    def __str__(self) -> str:
        return f"lost {len(self.lost)}, doubled {len(self.doubled)}, wedged {len(self.wedged)}"


def audit(
    events: Mapping[str, Transfer],
    accepted: Iterable[str],
    books: Books,
    running: Iterable[str] = (),
    terminated: Mapping[str, Sequence[datetime]] | None = None,
) -> Findings:
    """Judge the books.

    Args:
        events: all that clients tried to publish, by id.
        accepted: ids of those that were accepted.
        books: what the database holds when everything has ended.
        running: ids of executions of their own that still run.
        terminated: when which partitions were.
    """
    found = Findings()
    _outcomes(accepted, books, found)
    _verdicts(events, books, found)
    _effects(events, books, found)
    _ends(books, running, found)
    _money(books, found)
    _order(books, terminated or {}, found)
    _locks(books, found)
    found.wrong += [f"dead letter {row['code']}: {row['reason']}" for row in books.letters]
    return found


def _outcomes(accepted: Iterable[str], books: Books, found: Findings) -> None:
    sagas: dict[str, list[Row]] = defaultdict(list)
    for row in books.sagas:
        sagas[row["event_id"]].append(row)
    sent = Counter(row["saga_id"] for row in books.sent)
    for event_id in sorted(accepted):
        if not sagas[event_id]:
            found.lost.append(f"{event_id} was accepted and has no saga")
    for event_id, rows in sagas.items():
        if len(rows) > 1:
            found.doubled.append(f"{event_id} has {len(rows)} sagas")
        for row in rows:
            is_final, events = Phase(row["phase"]).is_final, sent[row["id"]]
            if is_final and (row["outcome"] is None or events == 0):
                found.lost.append(f"{event_id} is {row['phase']}, with {events} events in the outbox")
            if events > 1 or (events and not is_final):
                found.doubled.append(f"{event_id} is {row['phase']}, with {events} events in the outbox")


def _verdicts(events: Mapping[str, Transfer], books: Books, found: Findings) -> None:
    """Outcomes that say something else than the row, or than the event allows."""
    sent = {row["saga_id"]: row["envelope"] for row in books.sent}
    pivots = {row["saga_id"] for row in books.steps if row["irreversible"] and row["state"] == StepState.DONE.value}
    for row in books.sagas:
        event_id, phase = row["event_id"], Phase(row["phase"])
        if not phase.is_final or row["outcome"] is None:
            continue
        outcome = Outcome.model_validate_json(row["outcome"])
        if outcome.phase is not phase:
            found.wrong.append(f"{event_id} is {phase.value}, and its outcome says {outcome.phase.value}")
        if row["id"] in sent and json.loads(sent[row["id"]]) != outcome.event:
            found.wrong.append(f"{event_id}: the event in the outbox is not its outcome's")
        event = events.get(event_id)
        if event is None:
            found.doubled.append(f"{event_id} has a saga, and nobody published it")
        elif phase is Phase.COMPLETED and (event.refuse or event.amount > BALANCE * len(books.accounts)):
            found.wrong.append(f"{event_id} is completed, and one of its steps had to be refused")
        if phase is not Phase.COMPLETED and row["id"] in pivots:
            found.wrong.append(f"{event_id} is {phase.value}, though it was past its pivot")


def _effects(events: Mapping[str, Transfer], books: Books, found: Findings) -> None:
    phases = {row["event_id"]: Phase(row["phase"]) for row in books.sagas}
    done = Counter((row["event_id"], row["part"], row["sign"]) for row in books.entries)
    for event_id, event in events.items():
        phase = phases.get(event_id)
        for part in event.parts:
            here, undone = done.pop((event_id, part, 1), 0), done.pop((event_id, part, -1), 0)
            what = (
                f"{event_id}, {phase.value if phase else 'without a saga'}: {part} done {here}, undone {undone} times"
            )
            due = 1 if phase is Phase.COMPLETED else 0
            if here > 1 or undone > 1:
                found.doubled.append(what)
            elif phase is not None and phase.is_final and here - undone > due:
                found.lost.append(f"{what}: not undone")
            elif here - undone < due and (phase is Phase.COMPLETED or undone > here):
                found.lost.append(what)
            elif phase is None and here:
                found.doubled.append(what)
    for (event_id, part, sign), times in done.items():
        found.doubled.append(f"{event_id}: {part} ({sign:+}) {times} times, which nobody asked for")


def _ends(books: Books, running: Iterable[str], found: Findings) -> None:
    for row in books.open_sagas:
        stuck = f", stuck: {row['stuck_error']}" if row["stuck_since"] else ""
        found.wedged.append(f"{row['event_id']} ({row['owner_workflow_id']}) is {row['phase']}{stuck}")
    found.wedged += [f"{row['event_id']} has ended and is stuck" for row in _ended_but_stuck(books)]
    if books.tickets:
        found.wedged.append(f"{books.tickets} tickets of locks are left")
    found.wedged += [f"{workflow_id} still runs" for workflow_id in sorted(running)]


def _ended_but_stuck(books: Books) -> Sequence[Row]:
    return [row for row in books.stuck_sagas if Phase(row["phase"]).is_final]


def _money(books: Books, found: Findings) -> None:
    booked: Counter[str] = Counter()
    for row in books.entries:
        if row["account"] is not None:
            booked[row["account"]] += row["amount"]
    for row in books.accounts:
        if row["balance"] != BALANCE + booked[row["name"]]:
            due = BALANCE + booked[row["name"]]
            found.wrong.append(f"{row['name']} holds {row['balance']}, and by its entries {due}")
    total, due = sum(row["balance"] for row in books.accounts), BALANCE * len(books.accounts)
    if total != due:
        found.wrong.append(f"money is not conserved: {total} of {due}")


def _order(books: Books, terminated: Mapping[str, Sequence[datetime]], found: Findings) -> None:
    """Of each key; but for what was overtaken because its partition was terminated with it unopened."""
    sagas = {row["event_id"]: row for row in books.sagas}
    last: dict[str, Row] = {}
    for row in books.entries:
        key = row["key"]
        if key is None or row["sign"] != 1:
            continue
        before = last.get(key)
        if before is None or row["sequence"] > before["sequence"]:
            last[key] = row
        elif not _was_overtaken(sagas.get(row["event_id"]), sagas.get(before["event_id"]), terminated):
            found.wrong.append(f"order of {key}: {row['sequence']} came after {before['sequence']}")


def _was_overtaken(late: Row | None, early: Row | None, terminated: Mapping[str, Sequence[datetime]]) -> bool:
    """Whether the late one was sent before the end of their partition, and neither was open then: recovery sends it
    again, behind what was published since. Docs say so."""
    if late is None or early is None:
        return False
    partition = partition_for(late["orchestrator"], late["ordering_key"], ORDERED_PARTITIONS)
    sent, opened = read(late["envelope"]).time, min(early["created_at"], late["created_at"])
    return any(sent <= at <= opened for at in terminated.get(partition, ()))


def _locks(books: Books, found: Findings) -> None:
    """No two sagas held a key at once: from a saga's first step to its end."""
    began: dict[Any, datetime] = {}
    for row in books.steps:
        began[row["saga_id"]] = min(row["created_at"], began.get(row["saga_id"], row["created_at"]))
    held: dict[str, list[Row]] = defaultdict(list)
    for row in books.sagas:
        if row["id"] in began and row["finished_at"] is not None:
            for key in json.loads(row["lock_keys"] or "[]"):
                held[key].append(row)
    for key, rows in held.items():
        rows.sort(key=lambda row: began[row["id"]])
        for one, other in pairwise(rows):
            if began[other["id"]] < one["finished_at"]:
                found.wrong.append(f"{one['event_id']} and {other['event_id']} held {key} at once")


async def _rows(database: Database, table: Table) -> list[Row]:
    async with database.reading() as connection:
        statement = select(table).order_by(*table.primary_key)
        return [dict(row) for row in (await connection.execute(statement)).mappings()]
