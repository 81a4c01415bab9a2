"""The one checker of what must be true of SmartExpense's data whenever no saga is under way.

The demo, the simulation and the tests all ask here. Reads whole tables: it is for checking, not for serving.
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
"""Every application table by name, its rows by primary key."""


async def violations(connection: AsyncConnection) -> list[str]:
    """Every invariant that does not hold, a sentence each; an empty list if all is well.

    Checks that each account is open and its balance is its opening balance plus the signed sum of its records, that
    each user's account count is right, that a transfer in one currency moved no more and no less than it took, that
    an amount follows from its recorded rate, and that no event left two records of a kind; then everything of
    `category_violations`.
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
    """Every row of every application table as it stands; compare two with `differences`."""
    return {
        table.name: {
            tuple(row[column.name] for column in table.primary_key.columns): dict(row)
            for row in await _rows(connection, table)
        }
        for table in APPLICATION_TABLES
    }


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """What changed between two snapshots, a sentence each row or value; an empty list if nothing did."""
    found: list[str] = []
    for table in sorted(before.keys() | after.keys()):
        old, new = before.get(table, {}), after.get(table, {})
        for key in sorted(old.keys() | new.keys(), key=str):
            name = f"{table} {'/'.join(map(str, key))}"
            if key not in new:
                found.append(f"{name} is gone: it was {dict(old[key])}")
            elif key not in old:
                found.append(f"{name} is new: {dict(new[key])}")
            else:
                found += [
                    f"{name}: {column} was {old[key].get(column)!r} and is {new[key].get(column)!r}"
                    for column in sorted(old[key].keys() | new[key].keys())
                    # By their text: 3 and 3.0, or 1.5 and 1.50, are equal to Python and not the same in a row.
                    if repr(old[key].get(column)) != repr(new[key].get(column))
                ]
    return found


async def _removals(connection: AsyncConnection) -> Counter[str]:
    """How many records each user has removed; only the engine's table still knows of them, where it is there."""
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
    found = [
        f"account {account['id']} is still opening: its creation was neither completed nor undone"
        for account in accounts
        if account["state"] != AccountState.OPEN
    ]
    known: set[tuple[Any, ...]] = set()
    for account in accounts:
        key = (account["user_id"], account["id"], account["opening_balance"], account["currency"])
        known.add(key)
        if created[key] != 1:
            found.append(f"account {account['id']} has {created[key]} records of its creation and must have one")
    found += [f"account {key[1]} of {key[0]} is recorded as created and is not there" for key in created.keys() - known]
    return found


def _balances_follow_from_records(accounts: Sequence[Row], records: Sequence[Row]) -> list[str]:
    expected = {(account["user_id"], account["id"]): int(account["opening_balance"]) for account in accounts}
    found: list[str] = []
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
                found.append(f"record {record['id']} names account {key[1]}, which {key[0]} does not have")
    for account in accounts:
        due = expected[account["user_id"], account["id"]]
        if account["balance"] != due:
            found.append(f"account {account['id']} holds {account['balance']!r} and its records add up to {due}")
    return found


def _accounts_are_counted(accounts: Sequence[Row], metadata: Sequence[Row]) -> list[str]:
    owned = Counter(account["user_id"] for account in accounts)
    counted = Counter({row["user_id"]: row["account_count"] for row in metadata})
    return [
        f"user {user} is counted as having {counted[user]} accounts and has {owned[user]}"
        for user in sorted(owned.keys() | counted.keys())
        if counted[user] != owned[user]
    ]


def _transfers_add_up(accounts: Sequence[Row], records: Sequence[Row]) -> list[str]:
    currencies = {account["id"]: account["currency"] for account in accounts}
    found: list[str] = []
    for record in records:
        if record["kind"] != RecordKind.MONEY_TRANSFER:
            continue
        name = f"record {record['id']}"
        left = Money(amount_minor=record["amount_out"], currency=Currency(record["currency_out"]))
        arrived = Money(amount_minor=record["amount_in"], currency=Currency(record["currency_in"]))
        if left.currency == arrived.currency and left != arrived:
            found.append(f"{name} took {left.shown()} and brought {arrived.shown()} in the same currency")
        if record["rate"] is not None and left.converted(arrived.currency, record["rate"]) != arrived:
            found.append(f"{name}: {left.shown()} at {record['rate']} is not {arrived.shown()}")
        for side, money in (("from", left), ("to", arrived)):
            kept_in = currencies.get(record[f"{side}_account_id"], money.currency)
            if kept_in != money.currency:
                found.append(f"{name} has {money.currency} {side} an account that is kept in {kept_in}")
    return found


def _events_are_recorded_once(records: Sequence[Row]) -> list[str]:
    times = Counter((record["event_id"], record["kind"]) for record in records)
    return [
        f"event {event_id} left {count} records of the kind {kind}"
        for (event_id, kind), count in times.items()
        if count > 1
    ]
