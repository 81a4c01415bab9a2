"""The counting at the end: each good event finished once, each bad one kept with its reason, nothing else anywhere."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Table, select

from orchestrator.protocol.commands import Phase
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_dead_letter, saga_lock
from tests.doors.marks import mark
from tests.doors.plan import Plan

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Books:
    """What the database holds."""

    sagas: list[Row]
    marks: list[Row]
    letters: list[Row]
    tickets: int = 0

    @classmethod
    async def of(cls, database: Database) -> "Books":
        """As it stands."""
        locks = [row for row in await _rows(database, saga_lock) if row["ticket"] > 0]
        return cls(
            await _rows(database, saga),
            await _rows(database, mark),
            await _rows(database, saga_dead_letter),
            len(locks),
        )


@dataclass(slots=True)
class Findings:
    """What is wrong, a sentence each."""

    lost: list[str] = field(default_factory=list[str])
    doubled: list[str] = field(default_factory=list[str])
    wedged: list[str] = field(default_factory=list[str])
    wrong: list[str] = field(default_factory=list[str])
    finished: int = 0
    kept: int = 0
    twice: int = 0
    """Letters of messages that had to be sent again, and came both times."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.wedged or self.wrong)


def audit(plan: Plan, books: Books, *, running: Sequence[str] = (), failing: Sequence[str] = ()) -> Findings:
    """Judge the books.

    Args:
        plan: what was sent.
        books: what the database holds when everything has ended.
        running: ids of executions that should have ended.
        failing: ids of executions whose workflow tasks fail.
    """
    found = Findings()
    _good(plan, books, found)
    _bad(plan, books, found)
    found.wedged += [f"{workflow_id} still runs" for workflow_id in running]
    found.wedged += [f"{workflow_id} fails at its tasks" for workflow_id in failing]
    if books.tickets:
        found.wedged.append(f"{books.tickets} tickets of locks are left")
    return found


def _good(plan: Plan, books: Books, found: Findings) -> None:
    phases: dict[str, list[str]] = {}
    for row in books.sagas:
        phases.setdefault(row["event_id"], []).append(row["phase"])
    marks = Counter(row["event_id"] for row in books.marks)
    for event_id, is_refused in plan.good.items():
        ended = phases.pop(event_id, [])
        due = (Phase.FAILED if is_refused else Phase.COMPLETED).value
        had = marks.pop(event_id, 0)
        if len(ended) > 1 or had > 2:
            found.doubled.append(f"{event_id} has {len(ended)} sagas and {had} marks")
        elif ended == [due] and had == (0 if is_refused else 2):
            found.finished += 1
        elif ended and not Phase(ended[0]).is_final:
            found.wedged.append(f"{event_id} is {ended[0]}")
        else:
            found.lost.append(f"{event_id} should be {due}, and is {ended or 'unknown'} with {had} marks")
    found.wrong += [f"{event_id}, which nobody sent as good, is {ended}" for event_id, ended in phases.items()]
    found.doubled += [f"{event_id} left {had} marks, and should have none" for event_id, had in marks.items()]


def _bad(plan: Plan, books: Books, found: Findings) -> None:
    due: Counter[tuple[str, bytes]] = Counter()
    most: Counter[tuple[str, bytes]] = Counter()
    names: dict[tuple[str, bytes], str] = {}
    for sending in plan.bad:
        for raw in sending.kept:
            due[sending.code, raw] += 1
            most[sending.code, raw] += sending.attempts
            names[sending.code, raw] = f"{sending.kind} by {sending.door}"
    have = Counter((row["code"], bytes(row["raw"])) for row in books.letters)
    for key, count in due.items():
        if have[key] < count:
            found.lost.append(f"{names[key]} ({key[0]}, {len(key[1]):,} bytes): {have[key]} of {count} letters")
        found.kept += min(have[key], count)
        found.twice += max(min(have[key], most[key]) - count, 0)
    reasons = {(row["code"], bytes(row["raw"])): (row["door"], row["reason"]) for row in books.letters}
    for key, count in have.items():
        if count > max(most[key], due[key]):
            more = count - max(most[key], due[key])
            found.wrong.append(f"{more} letters too many: {key[0]} by {reasons[key]}, {len(key[1]):,} bytes")
    found.wrong += [f"letter {row['id']} has no reason" for row in books.letters if not row["reason"]]
    found.wrong += [f"letter {row['id']} is not whole" for row in books.letters if row["size"] != len(row["raw"])]


async def _rows(database: Database, table: Table) -> list[Row]:
    async with database.reading() as connection:
        return [dict(row) for row in (await connection.execute(select(table))).mappings()]
