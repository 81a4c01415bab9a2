"""The counting at the end: every accepted event against what the database holds. The books are read first, then judged.

What is due comes from the events alone, so that a record that is missing or double cannot hide its own effect.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Table, select

from orchestrator.drive.messages import Phase
from orchestrator.store.database import Database
from orchestrator.store.databases import Databases
from orchestrator.store.schema import saga, saga_dead_letter, saga_lock, saga_outbox, saga_step
from tests.chaos.accounts import JOURNAL, account, entry, journal_entry
from tests.chaos.load import BALANCE
from tests.chaos.transfers import Transfer

Row = Mapping[str, Any]


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
    begun: set[Any]
    """Ids of sagas with a step."""

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
            begun={row["saga_id"] for row in await _rows(database, saga_step)},
        )

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
    """Money, order and letters: each comes of one of the others, or of something that none of them sees."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.wedged or self.wrong)

    def __str__(self) -> str:
        return f"lost {len(self.lost)}, doubled {len(self.doubled)}, wedged {len(self.wedged)}"


def audit(
    events: Mapping[str, Transfer], accepted: Iterable[str], books: Books, running: Iterable[str] = ()
) -> Findings:
    """Judge the books.

    Args:
        events: all that clients tried to publish, by id.
        accepted: ids of those that were accepted.
        books: what the database holds when everything has ended.
        running: ids of executions of their own that still run.
    """
    found = Findings()
    _outcomes(accepted, books, found)
    _effects(events, books, found)
    _ends(books, running, found)
    _money(books, found)
    _order(books, found)
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


def _order(books: Books, found: Findings) -> None:
    last: dict[str, int] = {}
    for row in books.entries:
        if row["key"] is not None and row["sign"] == 1:
            before = last.get(row["key"], 0)
            if row["sequence"] <= before:
                found.wrong.append(f"order of {row['key']}: {row['sequence']} came after {before}")
            last[row["key"]] = max(before, row["sequence"])


async def _rows(database: Database, table: Table) -> list[Row]:
    async with database.reading() as connection:
        statement = select(table).order_by(*table.primary_key)
        return [dict(row) for row in (await connection.execute(statement)).mappings()]
