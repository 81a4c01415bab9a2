"""The final check: good events have one outcome each, bad ones are dead letters with a reason, no other row exists."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Table, select

from orchestrator.protocol.commands import Phase
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_dead_letter, saga_lock
from tests.sources.marks import mark
from tests.sources.plan import Plan

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Books:
    """The rows of the database that the check reads."""

    sagas: list[Row]
    marks: list[Row]
    letters: list[Row]
    tickets: int = 0

    @classmethod
    async def of(cls, database: Database) -> "Books":
        """Read the rows as they are now."""
        locks = [row for row in await _rows(database, saga_lock) if row["ticket"] > 0]
        return cls(
            await _rows(database, saga),
            await _rows(database, mark),
            await _rows(database, saga_dead_letter),
            len(locks),
        )


@dataclass(slots=True)
class Findings:
    """What is wrong, one sentence per finding."""

    lost: list[str] = field(default_factory=list[str])
    doubled: list[str] = field(default_factory=list[str])
    wedged: list[str] = field(default_factory=list[str])
    wrong: list[str] = field(default_factory=list[str])
    finished: int = 0
    dead_letters: int = 0
    repeated: int = 0
    """Dead letters of messages that were sent more than once and arrived each time."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.wedged or self.wrong)


def audit(plan: Plan, books: Books, *, running: Sequence[str] = (), failing: Sequence[str] = ()) -> Findings:
    """Compare what the database holds with what was sent.

    Args:
        plan: what was sent.
        books: what the database holds when everything has ended.
        running: ids of executions that should have ended.
        failing: ids of executions whose workflow tasks fail.
    """
    findings = Findings()
    _good(plan, books, findings)
    _bad(plan, books, findings)
    findings.wedged += [f"{workflow_id} still runs" for workflow_id in running]
    findings.wedged += [f"{workflow_id} fails at its tasks" for workflow_id in failing]
    if books.tickets:
        findings.wedged.append(f"{books.tickets} tickets of locks are held")
    return findings


def _good(plan: Plan, books: Books, findings: Findings) -> None:
    phases: dict[str, list[str]] = {}
    for row in books.sagas:
        phases.setdefault(row["event_id"], []).append(row["phase"])
    marks = Counter(row["event_id"] for row in books.marks)
    for event_id, is_refused in plan.good.items():
        ended = phases.pop(event_id, [])
        expected = (Phase.FAILED if is_refused else Phase.COMPLETED).value
        count = marks.pop(event_id, 0)
        if len(ended) > 1 or count > 2:
            findings.doubled.append(f"{event_id} has {len(ended)} sagas and {count} marks")
        elif ended == [expected] and count == (0 if is_refused else 2):
            findings.finished += 1
        elif ended and not Phase(ended[0]).is_final:
            findings.wedged.append(f"{event_id} is {ended[0]}")
        else:
            findings.lost.append(f"{event_id} should be {expected}, and is {ended or 'unknown'} with {count} marks")
    findings.wrong += [f"{event_id} is {ended}, but was not sent as a good event" for event_id, ended in phases.items()]
    findings.doubled += [f"{event_id} left {count} marks, and should have none" for event_id, count in marks.items()]


def _bad(plan: Plan, books: Books, findings: Findings) -> None:
    expected: Counter[tuple[str, bytes]] = Counter()
    at_most: Counter[tuple[str, bytes]] = Counter()
    names: dict[tuple[str, bytes], str] = {}
    for sending in plan.bad:
        for raw in sending.letters:
            expected[sending.code, raw] += 1
            at_most[sending.code, raw] += sending.attempts
            names[sending.code, raw] = f"{sending.kind} by {sending.source}"
    stored = Counter((row["code"], bytes(row["raw"])) for row in books.letters)
    for key, count in expected.items():
        if stored[key] < count:
            findings.lost.append(f"{names[key]} ({key[0]}, {len(key[1]):,} bytes): {stored[key]} of {count} letters")
        findings.dead_letters += min(stored[key], count)
        findings.repeated += max(min(stored[key], at_most[key]) - count, 0)
    reasons = {(row["code"], bytes(row["raw"])): (row["source"], row["reason"]) for row in books.letters}
    for key, count in stored.items():
        if count > max(at_most[key], expected[key]):
            surplus = count - max(at_most[key], expected[key])
            findings.wrong.append(f"{surplus} letters too many: {key[0]} by {reasons[key]}, {len(key[1]):,} bytes")
    findings.wrong += [f"letter {row['id']} has no reason" for row in books.letters if not row["reason"]]
    findings.wrong += [f"letter {row['id']} is truncated" for row in books.letters if row["size"] != len(row["raw"])]


async def _rows(database: Database, table: Table) -> list[Row]:
    async with database.reading() as connection:
        return [dict(row) for row in (await connection.execute(select(table))).mappings()]
