"""From the model's words to the application's: its events as domain events, its rows as those of the tables.

A column that is not compared stands in `NOT_COMPARED` with the reason; a test sees to it that each stands in one place.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from events.account import AccountCreated, AccountValueEditRequested, MoneyTransferRequested
from events.activity_log import ActivityRecordRemovalRequested
from events.category import BudgetType, CategoryResetRequested, CategoryTransactionRequested
from events.identity import AccountId, CategoryId, UserId
from events.metadata import CurrencyChangeRequested
from events.money import Currency, Money
from events.month import Month
from events.snapshot import MonthResetRequested
from orchestrator.definition.catalog import AnyOrchestrator
from orchestrator.event import DomainEvent
from tests.reference.events import (
    ChangeCurrency,
    CreateAccount,
    EditAccountValue,
    Event,
    RemoveRecord,
    ResetCategories,
    ResetMonth,
    TransactCategory,
    TransferMoney,
)
from tests.reference.ledger import LookupSource
from tests.reference.rows import Record
from workflows.account_creation import AccountCreation
from workflows.account_value_edit import AccountValueEdit
from workflows.activity_record_removal import ActivityRecordRemoval
from workflows.category_reset import CategoryReset
from workflows.category_transaction import CategoryTransaction
from workflows.currency_change import CurrencyChange
from workflows.money_transfer import MoneyTransfer
from workflows.month_reset import MonthReset

Row = Mapping[str, Any]

NOT_COMPARED: Mapping[str, Mapping[str, str]] = {
    "account": {"state": "an account is open once its creation is over: checked apart", "opened_at": "a moment"},
    "activity_record": {"id": "made by the engine; the event's id says which record it is", "occurred_at": "a moment"},
    "category": {"reset_at": "a moment", "counted_from": "the reset epoch, where nothing is undone: checked apart"},
    "exchange_rate": {"as_of": "a day"},
    "month_snapshot": {"taken_at": "a moment"},
}


def translated(event: Event, records: Mapping[str, UUID]) -> tuple[AnyOrchestrator, DomainEvent]:
    """Who takes an event, and the event.

    Args:
        event: as the model has it.
        records: the application's ids of records, by the ids of the events that left them.
    """
    user = UserId(event.user)
    match event:
        case CreateAccount():
            return AccountCreation, AccountCreated(
                user_id=user,
                account_id=AccountId(event.account),
                name=event.name,
                currency=Currency(event.currency),
                overdraft_limit=event.overdraft_limit,
                opening_balance=event.opening_balance,
                icon=event.icon,
                colour=event.colour,
            )
        case TransferMoney():
            arriving = None
            if event.arriving is not None and event.arriving_currency is not None:
                arriving = _money(event.arriving, event.arriving_currency)
            return MoneyTransfer, MoneyTransferRequested(
                user_id=user,
                from_account_id=AccountId(event.source),
                to_account_id=AccountId(event.target),
                amount=_money(event.amount, event.currency),
                arriving=arriving,
            )
        case TransactCategory():
            return CategoryTransaction, CategoryTransactionRequested(
                user_id=user,
                category_id=CategoryId(event.category),
                account_id=AccountId(event.account),
                amount=_money(event.amount, event.currency),
                note=event.note,
            )
        case EditAccountValue():
            return AccountValueEdit, AccountValueEditRequested(
                user_id=user,
                account_id=AccountId(event.account),
                value=_money(event.value, event.currency),
                note=event.note,
            )
        case RemoveRecord():
            record = records.get(event.record, UUID(int=0))
            return ActivityRecordRemoval, ActivityRecordRemovalRequested(user_id=user, record_id=record)
        case ResetCategories():
            return CategoryReset, CategoryResetRequested(user_id=user, budget_type=BudgetType(event.budget_type))
        case ChangeCurrency():
            return CurrencyChange, CurrencyChangeRequested(user_id=user, currency=Currency(event.currency))
        case ResetMonth():
            return MonthReset, MonthResetRequested(user_id=user, month=Month(event.month))
        case _:
            raise TypeError(f"nobody takes {event!r}")


def _money(amount: int, currency: str) -> Money:
    return Money(amount_minor=amount, currency=Currency(currency))


def expected(tables: LookupSource) -> dict[str, list[Row]]:
    """The model's rows as the application's tables should hold them."""
    return {
        "account": [
            {
                "id": account.id,
                "user_id": account.user,
                "name": account.name,
                "currency": account.currency,
                "balance": account.balance,
                "opening_balance": account.opening_balance,
                "overdraft_limit": account.overdraft_limit,
                "icon": account.icon,
                "colour": account.colour,
                "position": account.position,
            }
            for account in tables.accounts.values()
        ],
        "activity_record": [_record(record) for record in tables.records.values()],
        "category": [
            {
                "id": category.id,
                "user_id": category.user,
                "name": category.name,
                "budget_type": category.budget_type,
                "currency": category.currency,
                "value": category.value,
                "reset_epoch": category.reset_epoch,
                "currency_epoch": category.currency_epoch,
                "icon": category.icon,
                "colour": category.colour,
                "is_system": category.is_system,
            }
            for category in tables.categories.values()
        ],
        "category_conversion": [
            {
                "user_id": conversion.user,
                "currency_epoch": conversion.epoch,
                "currency_from": conversion.currency_from,
                "currency_to": conversion.currency_to,
                "rate": conversion.rate,
            }
            for conversion in tables.conversions.values()
        ],
        "month_snapshot": [
            {
                "user_id": snapshot.user,
                "month": snapshot.month,
                "currency": snapshot.currency,
                "income": snapshot.income,
                "expense": snapshot.expense,
                "month_balance": snapshot.month_balance,
                "full_balance": snapshot.full_balance,
            }
            for snapshot in tables.snapshots.values()
        ],
        "month_category": [
            {
                "user_id": snapshot.user,
                "month": snapshot.month,
                "category_id": category,
                "name": name,
                "budget_type": budget_type,
                "value": value,
            }
            for snapshot in tables.snapshots.values()
            for category, (name, budget_type, value) in snapshot.categories.items()
        ],
        "exchange_rate": [{"base": base, "quote": quote, "rate": rate} for (base, quote), rate in tables.rates.items()],
        "user_metadata": [
            {
                "user_id": metadata.user,
                "display_currency": metadata.display_currency,
                "language": metadata.language,
                "last_reset_month": metadata.last_reset_month,
                "account_count": metadata.account_count,
            }
            for metadata in tables.metadata.values()
        ],
    }


def _record(one: Record) -> Row:
    return {
        "event_id": one.event,
        "user_id": one.user,
        "kind": one.kind,
        "account_id": one.account,
        "amount": one.amount,
        "currency": one.currency,
        "from_account_id": one.source,
        "to_account_id": one.target,
        "amount_out": one.amount_out,
        "currency_out": one.currency_out,
        "amount_in": one.amount_in,
        "currency_in": one.currency_in,
        "rate": one.rate,
        "category_id": one.category,
        "converted": one.converted,
        "converted_currency": one.converted_currency,
        "budget_type": one.budget_type,
        "note": one.note,
        "reset_epoch": one.reset_epoch,
        "currency_epoch": one.currency_epoch,
        "currency_from": one.currency_from,
        "currency_to": one.currency_to,
        "removing": None,
    }


def compared(tables: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """The application's rows without what is not compared."""
    return {
        name: [
            {column: value for column, value in row.items() if column not in NOT_COMPARED.get(name, {})} for row in rows
        ]
        for name, rows in tables.items()
    }


def unlike(model: Mapping[str, list[Row]], application: Mapping[str, list[Row]]) -> list[str]:
    """Rows that only one side has, a sentence each."""
    found: list[str] = []
    for table in sorted(model.keys() | application.keys()):
        due = {_text(row): row for row in model.get(table, [])}
        there = {_text(row): row for row in application.get(table, [])}
        found += [f"{table}: only the model has {text}" for text in sorted(due.keys() - there.keys())]
        found += [f"{table}: only the application has {text}" for text in sorted(there.keys() - due.keys())]
        rows = len(model.get(table, [])), len(application.get(table, []))
        if rows[0] != rows[1]:
            found.append(f"{table}: the model has {rows[0]} rows, the application {rows[1]}")
    return found


def _text(row: Row) -> str:
    # By their text: 1.5 and 1.50, or a text and a number, are not the same in a row.
    return ", ".join(f"{column}={_plain(value)!r}" for column, value in sorted(row.items()) if value is not None)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    return str(value) if isinstance(value, str) else value
