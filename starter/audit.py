"""What must be true after a simulation: what its clients were told against what the databases hold.

Balances are worked out from the outcomes alone, so that a record that is missing or double cannot hide its own effect.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from events.account import MoneyTransferCompleted
from orchestrator.protocol.commands import Outcome, Phase, StepState
from orchestrator.protocol.envelope import canonical, saga_id
from orchestrator.protocol.names import own_workflow_id
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga, saga_outbox, saga_step
from starter.invariants import violations
from starter.tables import ACCOUNT, ACTIVITY_RECORD
from starter.workload import Workload
from workflows.money_transfer import MoneyTransfer

_HISTORIES_AT_ONCE = 10


@dataclass(frozen=True, slots=True)
class Books:
    """What the databases hold of a workload, read in one transaction."""

    balances: dict[str, int]
    currencies: dict[str, str]
    records: list[Mapping[str, Any]]
    sagas: list[Mapping[str, Any]]
    steps: list[Mapping[str, Any]]
    sent: list[Mapping[str, Any]]
    open_sagas: int
    """In the whole database."""
    violations: list[str]

    @classmethod
    async def of(cls, database: Database, work: Workload) -> "Books":
        """As it stands."""
        keys = [saga_id(MoneyTransfer.__name__, event_id) for event_id in work.transfers]
        async with database.reading() as connection:
            accounts = await _rows(connection, ACCOUNT, ACCOUNT.c.user_id.in_(work.users))
            return cls(
                balances={account["id"]: account["balance"] for account in accounts},
                currencies={account["id"]: account["currency"] for account in accounts},
                records=await _rows(connection, ACTIVITY_RECORD, ACTIVITY_RECORD.c.event_id.in_(work.transfers)),
                sagas=await _rows(connection, saga, saga.c.event_id.in_(work.transfers)),
                steps=await _rows(connection, saga_step, saga_step.c.saga_id.in_(keys)),
                sent=await _rows(
                    connection, saga_outbox, saga_outbox.c.saga_id.in_(keys) & saga_outbox.c.target.is_(None)
                ),
                open_sagas=await connection.scalar(
                    select(func.count()).select_from(saga).where(saga.c.phase.in_((Phase.FORWARD, Phase.UNDOING)))
                )
                or 0,
                violations=await violations(connection),
            )

    def sums(self) -> Counter[str]:
        """All of the accounts' money, by currency."""
        total: Counter[str] = Counter()
        for account, balance in self.balances.items():
            total[self.currencies[account]] += balance
        return total


@dataclass(frozen=True, slots=True)
class Kill:
    """A worker that was killed, and what that left."""

    worker: int
    steps: int
    """Done by then, of all transfers."""
    midway: int
    """Sagas that had begun and not ended when it was dead."""
    on_their_way: int
    """Of those, sagas whose money had left one account and not arrived in the other."""


@dataclass(slots=True)
class Check:
    """One thing that must hold."""

    what: str
    faults: list[str] = field(default_factory=list[str])


def kills_hit(wanted: int, kills: Sequence[Kill]) -> Check:
    """Whether the run showed what it was for: a kill that hit nothing must not pass for one that did no harm."""
    check = Check(f"workers to be killed: {wanted}, each in the middle of some sagas")
    if len(kills) < wanted:
        check.faults.append(f"only {len(kills)}, as all had ended by then: ask for more transfers")
    check.faults += [f"worker {one.worker} died when no saga was under way" for one in kills if not one.midway]
    return check


def audit(work: Workload, told: Mapping[str, Outcome], before: Books, after: Books) -> list[Check]:
    """Every check, with what is wrong; all is well if no check has a fault.

    Args:
        work: what was asked for.
        told: what each event's publisher learned, by event id.
        before: the books when the accounts were open.
        after: the books when everything had ended.
    """
    completed = {
        event_id: MoneyTransferCompleted.model_validate_json(canonical(outcome.event["data"]))
        for event_id, outcome in told.items()
        if outcome.phase is Phase.COMPLETED
    }
    return [
        Check("each event has one saga and one outcome, which its publisher was told", [*_outcomes(work, told, after)]),
        Check("no saga is open", [f"{after.open_sagas} are"] if after.open_sagas else []),
        Check("each completed transfer has one record, no other has any", [*_records(completed, after)]),
        Check("balances are what the completed transfers make of them", [*_balances(completed, before, after)]),
        Check("no effect is left of what was undone", [*_undone(after)]),
        Check("the sum of each currency is unchanged", [*_sums(before, after)]),
        Check("every invariant of the application holds", after.violations),
    ]


def _outcomes(work: Workload, told: Mapping[str, Outcome], after: Books) -> list[str]:
    rows, sent = Counter(row["event_id"] for row in after.sagas), Counter(row["saga_id"] for row in after.sent)
    recorded = {row["event_id"]: row for row in after.sagas}
    faults: list[str] = []
    for event_id in work.transfers:
        out = sent[saga_id(MoneyTransfer.__name__, event_id)]
        if rows[event_id] != 1 or out != 1:
            faults.append(f"{event_id} has {rows[event_id]} sagas and {out} events in the outbox")
        elif event_id not in told:
            faults.append(f"{event_id}: its publisher was told nothing")
        elif Outcome.model_validate_json(recorded[event_id]["outcome"]) != told[event_id]:
            faults.append(f"{event_id}: its publisher was told {told[event_id].phase}, not what is recorded")
    return faults


def _records(completed: Mapping[str, MoneyTransferCompleted], after: Books) -> list[str]:
    found: dict[str, list[tuple[Any, ...]]] = {}
    for row in after.records:
        values = (row["from_account_id"], row["to_account_id"], row["amount_out"], row["amount_in"])
        found.setdefault(row["event_id"], []).append(values)
    wanted = {
        event_id: [(one.from_account_id, one.to_account_id, one.left.amount_minor, one.arrived.amount_minor)]
        for event_id, one in completed.items()
    }
    return [
        f"{event_id}: recorded {found.get(event_id, [])}, due {wanted.get(event_id, [])}"
        for event_id in sorted(found.keys() | wanted.keys())
        if found.get(event_id) != wanted.get(event_id)
    ]


def _balances(completed: Mapping[str, MoneyTransferCompleted], before: Books, after: Books) -> list[str]:
    due = dict(before.balances)
    for one in completed.values():
        due[one.from_account_id] -= one.left.amount_minor
        due[one.to_account_id] += one.arrived.amount_minor
    return [
        f"{account} holds {after.balances.get(account)} and should hold {balance}"
        for account, balance in due.items()
        if after.balances.get(account) != balance
    ]


def _undone(after: Books) -> list[str]:
    failed = {row["id"]: row["event_id"] for row in after.sagas if row["phase"] != Phase.COMPLETED}
    return [
        f"{failed[step['saga_id']]}: step {step['number']}, {step['operation']}, still stands"
        for step in after.steps
        if step["saga_id"] in failed and step["kind"] == "operation" and step["state"] == StepState.DONE
    ]


def _sums(before: Books, after: Books) -> list[str]:
    was, now = before.sums(), after.sums()
    return [f"{code}: {was[code]} became {now[code]}" for code in sorted(was | now) if was[code] != now[code]]


@dataclass(slots=True)
class Attempts:
    """How often activities were attempted, as their executions' histories tell."""

    activities: int = 0
    repeats: int = 0
    """Attempts after the first: the earlier one died with its worker, or failed."""
    absorbed: int = 0
    """Attempts at an operation that another attempt had committed: they answered with what that one recorded."""


async def attempts(client: Client, work: Workload, after: Books) -> Attempts:
    """Read every execution's history and count."""
    committed_by: dict[tuple[UUID, str], int] = {
        (step["saga_id"], step["operation"]): step["attempts"] for step in after.steps
    }
    counted, free = Attempts(), asyncio.Semaphore(_HISTORIES_AT_ONCE)

    async def count(event_id: str) -> None:
        async with free:
            async for name, attempt in _started(client, own_workflow_id(MoneyTransfer.__name__, event_id)):
                counted.activities += 1
                counted.repeats += attempt - 1
                counted.absorbed += attempt > committed_by.get(
                    (saga_id(MoneyTransfer.__name__, event_id), name), attempt
                )

    await asyncio.gather(*(count(event_id) for event_id in work.transfers))
    return counted


async def _started(client: Client, workflow_id: str) -> AsyncGenerator[tuple[str, int]]:
    """Each activity of an execution that ended: its name, and which attempt that was."""
    names: dict[int, str] = {}
    async for event in client.get_workflow_handle(workflow_id).fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            names[event.event_id] = event.activity_task_scheduled_event_attributes.activity_type.name
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
            started = event.activity_task_started_event_attributes
            yield names[started.scheduled_event_id], started.attempt


async def _rows(connection: AsyncConnection, table: Table, *which: Any) -> list[Mapping[str, Any]]:
    found = (await connection.execute(select(table).where(*which))).mappings()
    return [cast(Mapping[str, Any], dict(row)) for row in found]
