"""The final check: every accepted event is compared with what the database holds, which is read completely first.

What must be there follows from the events alone, so a missing or doubled record cannot hide its own effect.
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
from orchestrator.protocol.messages.envelope import read
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
    """The rows of both databases that the check reads."""

    accounts: list[Row]
    entries: list[Row]
    """Entries of the home database and of the journal, each in the order in which they were written."""
    sagas: list[Row]
    sent: list[Row]
    tickets: int
    """Tickets of locks that are held or waited for."""
    letters: list[Row]
    steps: list[Row]
    """Steps of all sagas, in the home database."""

    @classmethod
    async def of(cls, databases: Databases) -> "Books":
        """Read the rows as they are now."""
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
    def started(self) -> set[Any]:
        """Ids of sagas that have a step."""
        return {row["saga_id"] for row in self.steps}

    @property
    def open_sagas(self) -> list[Row]:
        """Sagas that have not ended."""
        return [row for row in self.sagas if not Phase(row["phase"]).is_final]

    @property
    def stuck_sagas(self) -> list[Row]:
        """Sagas that need a person."""
        return [row for row in self.sagas if row["stuck_since"] is not None]


@dataclass(slots=True)
class Findings:
    """What is wrong, one sentence per finding."""

    lost: list[str] = field(default_factory=list[str])
    """Accepted events without an outcome, and effects or undos that are missing."""
    doubled: list[str] = field(default_factory=list[str])
    """Outcomes, effects and undos that exist more than once."""
    wedged: list[str] = field(default_factory=list[str])
    """Sagas, locks and executions that do not end."""
    wrong: list[str] = field(default_factory=list[str])
    """Everything else: money, order, locks, dead letters, and outcomes that the event does not allow."""

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
    """Compare what the databases hold with what was published.

    Args:
        events: everything that clients tried to publish, by id.
        accepted: ids of the events that were accepted.
        books: what the databases hold when everything has ended.
        running: ids of executions other than partitions that are still running.
        terminated: when each partition was terminated.
    """
    findings = Findings()
    _outcomes(accepted, books, findings)
    _verdicts(events, books, findings)
    _effects(events, books, findings)
    _ends(books, running, findings)
    _money(books, findings)
    _order(books, terminated or {}, findings)
    _locks(books, findings)
    findings.wrong += [f"dead letter {row['code']}: {row['reason']}" for row in books.letters]
    return findings


def _outcomes(accepted: Iterable[str], books: Books, findings: Findings) -> None:
    sagas: dict[str, list[Row]] = defaultdict(list)
    for row in books.sagas:
        sagas[row["event_id"]].append(row)
    sent = Counter(row["saga_id"] for row in books.sent)
    for event_id in sorted(accepted):
        if not sagas[event_id]:
            findings.lost.append(f"{event_id} was accepted and has no saga")
    for event_id, rows in sagas.items():
        if len(rows) > 1:
            findings.doubled.append(f"{event_id} has {len(rows)} sagas")
        for row in rows:
            is_final, events = Phase(row["phase"]).is_final, sent[row["id"]]
            if is_final and (row["outcome"] is None or events == 0):
                findings.lost.append(f"{event_id} is {row['phase']}, with {events} events in the outbox")
            if events > 1 or (events and not is_final):
                findings.doubled.append(f"{event_id} is {row['phase']}, with {events} events in the outbox")


def _verdicts(events: Mapping[str, Transfer], books: Books, findings: Findings) -> None:
    """Find outcomes that contradict the row or that the event does not allow."""
    sent = {row["saga_id"]: row["envelope"] for row in books.sent}
    pivots = {row["saga_id"] for row in books.steps if row["irreversible"] and row["state"] == StepState.DONE.value}
    for row in books.sagas:
        event_id, phase = row["event_id"], Phase(row["phase"])
        if not phase.is_final or row["outcome"] is None:
            continue
        outcome = Outcome.model_validate_json(row["outcome"])
        if outcome.phase is not phase:
            findings.wrong.append(f"{event_id} is {phase.value}, but its outcome says {outcome.phase.value}")
        if row["id"] in sent and json.loads(sent[row["id"]]) != outcome.event:
            findings.wrong.append(f"{event_id}: the event in the outbox is not its outcome's")
        event = events.get(event_id)
        if event is None:
            findings.doubled.append(f"{event_id} has a saga, but was never published")
        elif phase is Phase.COMPLETED and (event.refuse or event.amount > BALANCE * len(books.accounts)):
            findings.wrong.append(f"{event_id} is completed, although one of its steps had to be refused")
        if phase is not Phase.COMPLETED and row["id"] in pivots:
            findings.wrong.append(f"{event_id} is {phase.value}, although it was past its pivot")


def _effects(events: Mapping[str, Transfer], books: Books, findings: Findings) -> None:
    phases = {row["event_id"]: Phase(row["phase"]) for row in books.sagas}
    done = Counter((row["event_id"], row["part"], row["sign"]) for row in books.entries)
    for event_id, event in events.items():
        phase = phases.get(event_id)
        for part in event.parts:
            done_count, undone = done.pop((event_id, part, 1), 0), done.pop((event_id, part, -1), 0)
            counts = (
                f"{event_id}, {phase.value if phase else 'without a saga'}: "
                f"{part} done {done_count}, undone {undone} times"
            )
            expected = 1 if phase is Phase.COMPLETED else 0
            if done_count > 1 or undone > 1:
                findings.doubled.append(counts)
            elif phase is not None and phase.is_final and done_count - undone > expected:
                findings.lost.append(f"{counts}: not undone")
            elif done_count - undone < expected and (phase is Phase.COMPLETED or undone > done_count):
                findings.lost.append(counts)
            elif phase is None and done_count:
                findings.doubled.append(counts)
    for (event_id, part, sign), times in done.items():
        findings.doubled.append(f"{event_id}: {part} ({sign:+}) {times} times, which no event asked for")


def _ends(books: Books, running: Iterable[str], findings: Findings) -> None:
    for row in books.open_sagas:
        stuck = f", stuck: {row['stuck_error']}" if row["stuck_since"] else ""
        findings.wedged.append(f"{row['event_id']} ({row['owner_workflow_id']}) is {row['phase']}{stuck}")
    findings.wedged += [f"{row['event_id']} has ended and is still marked as stuck" for row in _ended_but_stuck(books)]
    if books.tickets:
        findings.wedged.append(f"{books.tickets} tickets of locks are still held")
    findings.wedged += [f"{workflow_id} still runs" for workflow_id in sorted(running)]


def _ended_but_stuck(books: Books) -> Sequence[Row]:
    return [row for row in books.stuck_sagas if Phase(row["phase"]).is_final]


def _money(books: Books, findings: Findings) -> None:
    booked: Counter[str] = Counter()
    for row in books.entries:
        if row["account"] is not None:
            booked[row["account"]] += row["amount"]
    for row in books.accounts:
        if row["balance"] != BALANCE + booked[row["name"]]:
            expected = BALANCE + booked[row["name"]]
            findings.wrong.append(f"{row['name']} holds {row['balance']}, but its entries add up to {expected}")
    total, expected_total = sum(row["balance"] for row in books.accounts), BALANCE * len(books.accounts)
    if total != expected_total:
        findings.wrong.append(f"money is not conserved: {total} of {expected_total}")


def _order(books: Books, terminated: Mapping[str, Sequence[datetime]], findings: Findings) -> None:
    """Check the order of each key, except for events that were overtaken when their partition was terminated."""
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
            findings.wrong.append(f"order of {key}: {row['sequence']} came after {before['sequence']}")


def _was_overtaken(late: Row | None, early: Row | None, terminated: Mapping[str, Sequence[datetime]]) -> bool:
    """Tell whether the late event was sent before its partition was terminated and neither saga was open by then.

    Recovery publishes such an event again, behind the events published since; `docs` describe this."""
    if late is None or early is None:
        return False
    partition = partition_for(late["orchestrator"], late["ordering_key"], ORDERED_PARTITIONS)
    sent, opened = read(late["envelope"]).time, min(early["created_at"], late["created_at"])
    return any(sent <= at <= opened for at in terminated.get(partition, ()))


def _locks(books: Books, findings: Findings) -> None:
    """Check that no two sagas held a key at once; a saga holds it from its first step to its end."""
    started_at: dict[Any, datetime] = {}
    for row in books.steps:
        started_at[row["saga_id"]] = min(row["created_at"], started_at.get(row["saga_id"], row["created_at"]))
    holders: dict[str, list[Row]] = defaultdict(list)
    for row in books.sagas:
        if row["id"] in started_at and row["finished_at"] is not None:
            for key in json.loads(row["lock_keys"] or "[]"):
                holders[key].append(row)
    for key, rows in holders.items():
        rows.sort(key=lambda row: started_at[row["id"]])
        for first, second in pairwise(rows):
            if started_at[second["id"]] < first["finished_at"]:
                findings.wrong.append(f"{first['event_id']} and {second['event_id']} held {key} at once")


async def _rows(database: Database, table: Table) -> list[Row]:
    async with database.reading() as connection:
        statement = select(table).order_by(*table.primary_key)
        return [dict(row) for row in (await connection.execute(statement)).mappings()]
