"""Checks after a storm: compares the outcomes that its clients received with the contents of the databases.

Balances are computed from the outcomes alone, so that a missing or duplicate record cannot hide its own effect.
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
from orchestrator.protocol.messages.envelope import canonical, saga_id
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
    """The rows of a workload, read in one transaction."""

    balances: dict[str, int]
    currencies: dict[str, str]
    records: list[Mapping[str, Any]]
    sagas: list[Mapping[str, Any]]
    steps: list[Mapping[str, Any]]
    sent: list[Mapping[str, Any]]
    open_sagas: int
    """The number of open sagas in the whole database."""
    violations: list[str]

    @classmethod
    async def of(cls, database: Database, work: Workload) -> "Books":
        """Read the rows of a workload."""
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
        """Return the sum of all balances, by currency."""
        total: Counter[str] = Counter()
        for account, balance in self.balances.items():
            total[self.currencies[account]] += balance
        return total


@dataclass(frozen=True, slots=True)
class Kill:
    """A killed worker, and the state of the transfers at that time."""

    worker: int
    steps: int
    """The number of steps of all transfers that were done."""
    midway: int
    """The number of sagas that had begun and not ended."""
    in_transit: int
    """The number of those whose money had left one account and not arrived in the other."""


@dataclass(slots=True)
class Check:
    """A condition that must hold, with the faults that were found."""

    what: str
    faults: list[str] = field(default_factory=list[str])


def kills_hit(wanted: int, kills: Sequence[Kill]) -> Check:
    """Check that each kill interrupted a saga, because a kill that interrupts nothing proves nothing."""
    check = Check(f"{wanted} workers were killed, each in the middle of some sagas")
    if len(kills) < wanted:
        check.faults.append(f"only {len(kills)} were killed before all sagas had ended; run more transfers")
    check.faults += [f"worker {kill.worker} died when no saga was in flight" for kill in kills if not kill.midway]
    return check


def audit(work: Workload, received: Mapping[str, Outcome], before: Books, after: Books) -> list[Check]:
    """Return every check with its faults. The run has succeeded if no check has a fault.

    Args:
        work: the workload.
        received: the outcome that each event's publisher received, by event id.
        before: the rows after the accounts were opened.
        after: the rows after everything had ended.
    """
    completed = {
        event_id: MoneyTransferCompleted.model_validate_json(canonical(outcome.event["data"]))
        for event_id, outcome in received.items()
        if outcome.phase is Phase.COMPLETED
    }
    return [
        Check(
            "each event has one saga and one outcome, which its publisher received", [*_outcomes(work, received, after)]
        ),
        Check("no saga is open", [f"{after.open_sagas} are open"] if after.open_sagas else []),
        Check(
            "each completed transfer has one record, and no other transfer has a record", [*_records(completed, after)]
        ),
        Check("balances follow from the completed transfers", [*_balances(completed, before, after)]),
        Check("no effect of an undone transfer is left", [*_undone(after)]),
        Check("the sum of each currency is unchanged", [*_sums(before, after)]),
        Check("every invariant of the application holds", after.violations),
    ]


def _outcomes(work: Workload, received: Mapping[str, Outcome], after: Books) -> list[str]:
    rows, sent = Counter(row["event_id"] for row in after.sagas), Counter(row["saga_id"] for row in after.sent)
    recorded = {row["event_id"]: row for row in after.sagas}
    faults: list[str] = []
    for event_id in work.transfers:
        outcomes = sent[saga_id(MoneyTransfer.__name__, event_id)]
        if rows[event_id] != 1 or outcomes != 1:
            faults.append(f"{event_id} has {rows[event_id]} sagas and {outcomes} events in the outbox")
        elif event_id not in received:
            faults.append(f"{event_id}: its publisher received no outcome")
        elif Outcome.model_validate_json(recorded[event_id]["outcome"]) != received[event_id]:
            faults.append(
                f"{event_id}: its publisher received {received[event_id].phase}, which is not the recorded outcome"
            )
    return faults


def _records(completed: Mapping[str, MoneyTransferCompleted], after: Books) -> list[str]:
    recorded: dict[str, list[tuple[Any, ...]]] = {}
    for row in after.records:
        values = (row["from_account_id"], row["to_account_id"], row["amount_out"], row["amount_in"])
        recorded.setdefault(row["event_id"], []).append(values)
    expected = {
        event_id: [(event.from_account_id, event.to_account_id, event.left.amount_minor, event.arrived.amount_minor)]
        for event_id, event in completed.items()
    }
    return [
        f"{event_id}: recorded {recorded.get(event_id, [])}, expected {expected.get(event_id, [])}"
        for event_id in sorted(recorded.keys() | expected.keys())
        if recorded.get(event_id) != expected.get(event_id)
    ]


def _balances(completed: Mapping[str, MoneyTransferCompleted], before: Books, after: Books) -> list[str]:
    expected = dict(before.balances)
    for event in completed.values():
        expected[event.from_account_id] -= event.left.amount_minor
        expected[event.to_account_id] += event.arrived.amount_minor
    return [
        f"{account} holds {after.balances.get(account)} and should hold {balance}"
        for account, balance in expected.items()
        if after.balances.get(account) != balance
    ]


def _undone(after: Books) -> list[str]:
    failed = {row["id"]: row["event_id"] for row in after.sagas if row["phase"] != Phase.COMPLETED}
    return [
        f"{failed[step['saga_id']]}: step {step['number']}, {step['operation']}, was not undone"
        for step in after.steps
        if step["saga_id"] in failed and step["kind"] == "operation" and step["state"] == StepState.DONE
    ]


def _sums(before: Books, after: Books) -> list[str]:
    was, now = before.sums(), after.sums()
    return [f"{code}: {was[code]} became {now[code]}" for code in sorted(was | now) if was[code] != now[code]]


@dataclass(slots=True)
class Attempts:
    """How often activities were attempted, according to the histories of their executions."""

    activities: int = 0
    repeats: int = 0
    """Attempts after the first, because an earlier one died with its worker or failed."""
    absorbed: int = 0
    """Attempts of an operation that an earlier attempt had committed. They returned the recorded result."""


async def attempts(client: Client, work: Workload, after: Books) -> Attempts:
    """Count the attempts in every execution's history."""
    committed_by: dict[tuple[UUID, str], int] = {
        (step["saga_id"], step["operation"]): step["attempts"] for step in after.steps
    }
    counted, limit = Attempts(), asyncio.Semaphore(_HISTORIES_AT_ONCE)

    async def count(event_id: str) -> None:
        async with limit:
            async for name, attempt in _started(client, own_workflow_id(MoneyTransfer.__name__, event_id)):
                counted.activities += 1
                counted.repeats += attempt - 1
                counted.absorbed += attempt > committed_by.get(
                    (saga_id(MoneyTransfer.__name__, event_id), name), attempt
                )

    await asyncio.gather(*(count(event_id) for event_id in work.transfers))
    return counted


async def _started(client: Client, workflow_id: str) -> AsyncGenerator[tuple[str, int]]:
    """Yield the name and attempt number of each activity of an execution that has ended."""
    names: dict[int, str] = {}
    async for event in client.get_workflow_handle(workflow_id).fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            names[event.event_id] = event.activity_task_scheduled_event_attributes.activity_type.name
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
            started = event.activity_task_started_event_attributes
            yield names[started.scheduled_event_id], started.attempt


async def _rows(connection: AsyncConnection, table: Table, *which: Any) -> list[Mapping[str, Any]]:
    rows = (await connection.execute(select(table).where(*which))).mappings()
    return [cast(Mapping[str, Any], dict(row)) for row in rows]
