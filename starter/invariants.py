"""Checks what must be true of SmartExpense's data whenever no saga is in flight.

The demo, the simulation and the tests all use these checks. They read whole tables.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table, inspect, select
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.account import AccountState
from activities.activity_log_model import RecordKind
from events.category import BudgetType
from events.money import Currency, Money
from orchestrator.protocol.commands import Phase
from orchestrator.store.core.schema import saga
from starter.category_invariants import category_violations
from starter.tables import (
    ACCOUNT,
    ACTIVITY_RECORD,
    APPLICATION_TABLES,
    CATEGORY,
    CATEGORY_CONVERSION,
    MONTH_CATEGORY,
    MONTH_SNAPSHOT,
    USER_METADATA,
)

Row = Mapping[str, Any]
Snapshot = Mapping[str, Mapping[tuple[Any, ...], Row]]
"""The rows of every application table, by table name and primary key."""


async def violations(connection: AsyncConnection) -> list[str]:
    """Return one sentence for each invariant that is violated.

    Each account is open, and its balance is its opening balance plus the signed sum of its records. Each user's account
    count is right. A transfer within one currency deposits what it withdraws, and between currencies its amounts follow
    from the recorded rate. No event has two records of one kind. `category_violations` adds its own invariants.
    """
    accounts = await _rows(connection, ACCOUNT)
    records = await _rows(connection, ACTIVITY_RECORD)
    metadata = await _rows(connection, USER_METADATA)
    return [
        *_accounts_are_open_and_recorded(accounts, records),
        *_balances_follow_from_records(accounts, records),
        *_accounts_are_counted(accounts, metadata),
        *_transfers_add_up(accounts, records),
        *_events_are_recorded_once(records),
        *category_violations(
            categories=await _rows(connection, CATEGORY),
            conversions=await _rows(connection, CATEGORY_CONVERSION),
            records=records,
            metadata=metadata,
            months=await _rows(connection, MONTH_SNAPSHOT),
            month_categories=await _rows(connection, MONTH_CATEGORY),
            removals=await _removals(connection),
        ),
    ]


async def snapshot(connection: AsyncConnection) -> Snapshot:
    """Read every row of every application table. Compare two snapshots with `differences`."""
    return {
        table.name: {
            tuple(row[column.name] for column in table.primary_key.columns): dict(row)
            for row in await _rows(connection, table)
        }
        for table in APPLICATION_TABLES
    }


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """Return one sentence for each row or value that differs between two snapshots."""
    violated: list[str] = []
    for table in sorted(before.keys() | after.keys()):
        old, new = before.get(table, {}), after.get(table, {})
        for key in sorted(old.keys() | new.keys(), key=str):
            name = f"{table} {'/'.join(map(str, key))}"
            if key not in new:
                violated.append(f"{name} is gone: it was {dict(old[key])}")
            elif key not in old:
                violated.append(f"{name} is new: {dict(new[key])}")
            else:
                violated += [
                    f"{name}: {column} was {old[key].get(column)!r} and is {new[key].get(column)!r}"
                    for column in sorted(old[key].keys() | new[key].keys())
                    # Compared as text, because Python treats 3 and 3.0, or 1.5 and 1.50, as equal, but the rows differ.
                    if repr(old[key].get(column)) != repr(new[key].get(column))
                ]
    return violated


async def _removals(connection: AsyncConnection) -> Counter[str]:
    """Count the records that each user has removed. Only the engine's table, if it exists, still contains that."""
    if not await connection.run_sync(lambda sync: inspect(sync).has_table(saga.name)):
        return Counter()
    removed = select(saga.c.envelope).where(
        saga.c.orchestrator == "ActivityRecordRemoval", saga.c.phase == Phase.COMPLETED.value
    )
    return Counter(json.loads(envelope)["data"]["user_id"] for envelope in await connection.scalars(removed))


async def _rows(connection: AsyncConnection, table: Table) -> list[Row]:
    ordered = select(table).order_by(*table.primary_key.columns)
    names = [column.name for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in await connection.execute(ordered)]


def _accounts_are_open_and_recorded(accounts: Sequence[Row], records: Sequence[Row]) -> list[str]:
    created = Counter(
        (record["user_id"], record["account_id"], record["amount"], record["currency"])
        for record in records
        if record["kind"] == RecordKind.ACCOUNT_CREATED
    )
    violated = [
        f"account {account['id']} is still opening: its creation was neither completed nor undone"
        for account in accounts
        if account["state"] != AccountState.OPEN
    ]
    known: set[tuple[Any, ...]] = set()
    for account in accounts:
        key = (account["user_id"], account["id"], account["opening_balance"], account["currency"])
        known.add(key)
        if created[key] != 1:
            violated.append(f"account {account['id']} has {created[key]} records of its creation and must have one")
    violated += [
        f"account {key[1]} of {key[0]} is recorded as created but does not exist" for key in created.keys() - known
    ]
    return violated


def _balances_follow_from_records(accounts: Sequence[Row], records: Sequence[Row]) -> list[str]:
    expected = {(account["user_id"], account["id"]): int(account["opening_balance"]) for account in accounts}
    violated: list[str] = []
    for record in records:
        sides: tuple[tuple[str, int], ...] = ()
        if record["kind"] == RecordKind.MONEY_TRANSFER:
            sides = (("from_account_id", -record["amount_out"]), ("to_account_id", record["amount_in"]))
        elif record["kind"] == RecordKind.CATEGORY_VALUE_CHANGE:
            is_income = record["budget_type"] == BudgetType.INCOME
            sides = (("account_id", record["amount"] if is_income else -record["amount"]),)
        for column, signed in sides:
            key = (record["user_id"], record[column])
            if key in expected:
                expected[key] += signed
            else:
                violated.append(f"record {record['id']} names account {key[1]}, which {key[0]} does not have")
    for account in accounts:
        balance = expected[account["user_id"], account["id"]]
        if account["balance"] != balance:
            violated.append(
                f"account {account['id']} holds {account['balance']!r}, but its records add up to {balance}"
            )
    return violated


def _accounts_are_counted(accounts: Sequence[Row], metadata: Sequence[Row]) -> list[str]:
    owned = Counter(account["user_id"] for account in accounts)
    counted = Counter({row["user_id"]: row["account_count"] for row in metadata})
    return [
        f"user {user} is counted as having {counted[user]} accounts, but has {owned[user]}"
        for user in sorted(owned.keys() | counted.keys())
        if counted[user] != owned[user]
    ]


def _transfers_add_up(accounts: Sequence[Row], records: Sequence[Row]) -> list[str]:
    currencies = {account["id"]: account["currency"] for account in accounts}
    violated: list[str] = []
    for record in records:
        if record["kind"] != RecordKind.MONEY_TRANSFER:
            continue
        name = f"record {record['id']}"
        left = Money(amount_minor=record["amount_out"], currency=Currency(record["currency_out"]))
        arrived = Money(amount_minor=record["amount_in"], currency=Currency(record["currency_in"]))
        if left.currency == arrived.currency and left != arrived:
            violated.append(f"{name} withdrew {left.shown()} but deposited {arrived.shown()} in the same currency")
        if record["rate"] is not None and left.converted(arrived.currency, record["rate"]) != arrived:
            violated.append(f"{name}: {left.shown()} at {record['rate']} is not {arrived.shown()}")
        for side, money in (("from", left), ("to", arrived)):
            kept_in = currencies.get(record[f"{side}_account_id"], money.currency)
            if kept_in != money.currency:
                violated.append(f"{name} has {money.currency} {side} an account that is kept in {kept_in}")
    return violated


def _events_are_recorded_once(records: Sequence[Row]) -> list[str]:
    times = Counter((record["event_id"], record["kind"]) for record in records)
    return [
        f"event {event_id} left {count} records of the kind {kind}"
        for (event_id, kind), count in times.items()
        if count > 1
    ]
