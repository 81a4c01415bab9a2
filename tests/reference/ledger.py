"""The ledger: every process with all its rules, one event at a time."""

from copy import deepcopy
from dataclasses import dataclass, field
from decimal import Decimal

from tests.reference import money
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
from tests.reference.rows import EXPENSE, INCOME, Account, Category, Conversion, Metadata, Record, Snapshot

COMPLETED = "completed"


class Refusal(Exception):
    """A rule refuses the event; nothing is changed."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class LedgerTables:
    """All tables of the ledger."""

    accounts: dict[str, Account] = field(default_factory=dict[str, Account])
    categories: dict[str, Category] = field(default_factory=dict[str, Category])
    records: dict[str, Record] = field(default_factory=dict[str, Record])
    metadata: dict[str, Metadata] = field(default_factory=dict[str, Metadata])
    conversions: dict[tuple[str, int], Conversion] = field(default_factory=dict[tuple[str, int], Conversion])
    snapshots: dict[tuple[str, str], Snapshot] = field(default_factory=dict[tuple[str, str], Snapshot])
    rates: dict[tuple[str, str], Decimal] = field(default_factory=dict[tuple[str, str], Decimal])


class Ledger:
    """Handles events. Its tables are public, so that they can be compared and prepared."""

    def __init__(self) -> None:
        self.tables = LedgerTables()
        self.outcomes: dict[str, str] = {}
        """By event id: `completed`, or the code of the refusal."""

    def set_up(self, user: str, currency: str, language: str, categories: dict[str, str]) -> None:
        """Create a user with settings, the two system categories, and more categories given as budget type by id."""
        self.tables.metadata[user] = Metadata(user, display_currency=currency, language=language)
        for budget_type, name in ((INCOME, "Balance found"), (EXPENSE, "Balance lost")):
            system = f"{user}-adjust-{budget_type}"
            self.tables.categories[system] = Category(system, user, name, budget_type, currency, is_system=True)
        for category, budget_type in categories.items():
            self.tables.categories[category] = Category(category, user, category, budget_type, currency, icon="tag")

    def play(self, event_id: str, event: Event) -> str:
        """Do what the event asks for, or nothing. A repeated event id has no effect and the same outcome.

        Returns:
            `completed`, or the code of the refusal.
        """
        if event_id in self.outcomes:
            return self.outcomes[event_id]
        before = deepcopy(self.tables)
        try:
            self._handle(event_id, event)
        except Refusal as refusal:
            self.tables = before
            outcome = refusal.code
        else:
            outcome = COMPLETED
        self.outcomes[event_id] = outcome
        return outcome

    def copy(self) -> "Ledger":
        """Return an independent copy of the ledger."""
        return deepcopy(self)

    def _handle(self, event_id: str, event: Event) -> None:
        match event:
            case CreateAccount():
                self._create_account(event_id, event)
            case TransactCategory():
                self._transact_category(event_id, event)
            case TransferMoney():
                self._transfer_money(event_id, event)
            case EditAccountValue():
                self._edit_account_value(event_id, event)
            case RemoveRecord():
                self._remove_record(event)
            case ResetCategories():
                self._reset_categories(event_id, event)
            case ChangeCurrency():
                self._change_currency(event_id, event)
            case ResetMonth():
                self._reset_month(event)
            case _:
                raise TypeError(f"no process handles {event!r}")

    def _create_account(self, event_id: str, event: CreateAccount) -> None:
        if event.account in self.tables.accounts:
            raise Refusal("account.already_exists")
        owned = [account.position for account in self.tables.accounts.values() if account.user == event.user]
        self.tables.accounts[event.account] = Account(
            id=event.account,
            user=event.user,
            name=event.name,
            currency=event.currency,
            opening_balance=event.opening_balance,
            overdraft_limit=event.overdraft_limit,
            icon=event.icon,
            colour=event.colour,
            position=max(owned, default=0) + 1,
            balance=event.opening_balance,
        )
        self._log(
            Record(
                event=event_id,
                user=event.user,
                kind="account_created",
                account=event.account,
                amount=event.opening_balance,
                currency=event.currency,
            )
        )
        self._metadata(event.user).account_count += 1

    def _transfer_money(self, event_id: str, event: TransferMoney) -> None:
        if event.source == event.target:
            raise Refusal("account.same_account")
        arriving, into, rate = event.arriving, event.arriving_currency, None
        if arriving is None or into is None:
            into = self._account(event.user, event.target).currency
            rate = self._rate(event.currency, into)
            arriving = money.converted(event.amount, event.currency, into, rate)
            if arriving < 1:
                raise Refusal("currency.amount_too_small")
            if arriving > money.MOST:
                raise Refusal("currency.amount_too_large")
        self._debit(event.user, event.source, event.amount, event.currency)
        self._credit(event.user, event.target, arriving, into)
        self._log(
            Record(
                event=event_id,
                user=event.user,
                kind="money_transfer",
                source=event.source,
                target=event.target,
                amount_out=event.amount,
                currency_out=event.currency,
                amount_in=arriving,
                currency_in=into,
                rate=rate,
            )
        )

    def _transact_category(self, event_id: str, event: TransactCategory) -> None:
        category = self._category(event.user, event.category)
        worth, rate = self._worth(event.amount, event.currency, category.currency)
        if category.budget_type == INCOME:
            self._credit(event.user, event.account, event.amount, event.currency)
        else:
            self._debit(event.user, event.account, event.amount, event.currency)
        self._add(event_id, category, event.account, event.amount, event.currency, worth, rate, event.note)

    def _edit_account_value(self, event_id: str, event: EditAccountValue) -> None:
        account = self._account_in(event.user, event.account, event.currency)
        difference = event.value - account.balance
        if difference < 0 and event.value < -account.overdraft_limit:
            raise Refusal("account.insufficient_funds")
        if abs(difference) > money.MOST:
            raise Refusal("account.balance_limit")
        account.balance = event.value
        category = self._system_category(event.user, INCOME if difference >= 0 else EXPENSE)
        amount = abs(difference)
        worth, rate = self._worth(amount, event.currency, category.currency)
        self._add(event_id, category, event.account, amount, event.currency, worth, rate, event.note)

    def _worth(self, amount: int, currency: str, into: str) -> tuple[int, Decimal | None]:
        """Return what an amount adds to a category, and the rate that was used."""
        rate = self._rate(currency, into)
        worth = money.converted(amount, currency, into, rate)
        if worth > money.MOST:
            raise Refusal("currency.amount_too_large")
        return worth, rate

    def _add(
        self,
        event_id: str,
        category: Category,
        account: str,
        amount: int,
        currency: str,
        worth: int,
        rate: Decimal | None,
        note: str,
    ) -> None:
        if category.value + worth > money.MOST:
            raise Refusal("category.value_limit")
        category.value += worth
        self._log(
            Record(
                event=event_id,
                user=category.user,
                kind="category_value_change",
                account=account,
                category=category.id,
                amount=amount,
                currency=currency,
                converted=worth,
                converted_currency=category.currency,
                budget_type=category.budget_type,
                note=note,
                reset_epoch=category.reset_epoch,
                currency_epoch=category.currency_epoch,
                rate=rate,
            )
        )

    def _remove_record(self, event: RemoveRecord) -> None:
        record = self.tables.records.get(event.record)
        if record is None or record.user != event.user:
            raise Refusal("activity_log.not_found")
        if record.kind != "category_value_change":
            raise Refusal("activity_log.not_removable")
        if not (record.account and record.category and record.currency) or record.amount is None:
            raise ValueError(f"{record} is incomplete")
        category = self.tables.categories[record.category]
        if record.amount == 0:
            pass  # an edit that changed nothing, so the account is not affected
        elif record.budget_type == INCOME:
            self._debit(event.user, record.account, record.amount, record.currency)
        else:
            self._credit(event.user, record.account, record.amount, record.currency)
        if category.reset_epoch == record.reset_epoch:
            category.value -= self._contribution(record)
        del self.tables.records[event.record]

    def _contribution(self, record: Record) -> int:
        """Return what a record contributes to its category today: converted through each later change of currency."""
        if record.converted is None or record.currency_epoch is None:
            raise ValueError(f"{record} is incomplete")
        amount = record.converted
        for (user, epoch), change in sorted(self.tables.conversions.items()):
            if user == record.user and epoch > record.currency_epoch:
                amount = money.converted(amount, change.currency_from, change.currency_to, change.rate)
        return amount

    def _reset_categories(self, event_id: str, event: ResetCategories) -> None:
        self._set_to_zero(event.user, event.budget_type)
        self._log(Record(event=event_id, user=event.user, kind="categories_reset", budget_type=event.budget_type))

    def _change_currency(self, event_id: str, event: ChangeCurrency) -> None:
        metadata = self._chosen(event.user)
        before = str(metadata.display_currency)
        rate = self._rate(before, event.currency)
        if rate is None:
            raise Refusal("currency.unchanged")
        metadata.display_currency = event.currency
        categories = self._categories(event.user)
        epoch = 1 + max((category.currency_epoch for category in categories), default=0)
        for category in categories:
            category.value = money.converted(category.value, before, event.currency, rate)
            if abs(category.value) > money.MOST:
                raise Refusal("category.value_limit")
            category.currency, category.currency_epoch = event.currency, epoch
        self.tables.conversions[event.user, epoch] = Conversion(event.user, epoch, before, event.currency, rate)
        self._log(
            Record(
                event=event_id,
                user=event.user,
                kind="currency_change",
                currency_from=before,
                currency_to=event.currency,
                currency_epoch=epoch,
                rate=rate,
            )
        )

    def _reset_month(self, event: ResetMonth) -> None:
        metadata = self._chosen(event.user)
        if metadata.last_reset_month is not None and metadata.last_reset_month >= event.month:
            return
        currency = str(metadata.display_currency)
        categories = self._categories(event.user)
        income = sum(category.value for category in categories if category.budget_type == INCOME)
        expense = sum(category.value for category in categories if category.budget_type == EXPENSE)
        self.tables.snapshots[event.user, event.month] = Snapshot(
            user=event.user,
            month=event.month,
            currency=currency,
            income=income,
            expense=expense,
            month_balance=income - expense,
            full_balance=sum(
                money.converted(account.balance, account.currency, currency, self._rate(account.currency, currency))
                for account in self.tables.accounts.values()
                if account.user == event.user
            ),
            categories={category.id: (category.name, category.budget_type, category.value) for category in categories},
        )
        self._set_to_zero(event.user, None)
        metadata.last_reset_month = event.month

    def _set_to_zero(self, user: str, budget_type: str | None) -> None:
        for category in self._categories(user):
            if budget_type in (None, category.budget_type):
                category.value = 0
                category.reset_epoch += 1

    def _account(self, user: str, account: str) -> Account:
        row = self.tables.accounts.get(account)
        if row is None or row.user != user:
            raise Refusal("account.not_found")
        return row

    def _category(self, user: str, category: str) -> Category:
        row = self.tables.categories.get(category)
        if row is None or row.user != user:
            raise Refusal("category.not_found")
        return row

    def _categories(self, user: str) -> list[Category]:
        return [category for category in self.tables.categories.values() if category.user == user]

    def _system_category(self, user: str, budget_type: str) -> Category:
        for category in self._categories(user):
            if category.is_system and category.budget_type == budget_type:
                return category
        raise Refusal("category.not_found")

    def _metadata(self, user: str) -> Metadata:
        return self.tables.metadata.setdefault(user, Metadata(user))

    def _chosen(self, user: str) -> Metadata:
        """Return the settings of a user who was set up."""
        metadata = self.tables.metadata.get(user)
        if metadata is None or metadata.display_currency is None:
            raise Refusal("currency.not_chosen")
        return metadata

    def _debit(self, user: str, account: str, amount: int, currency: str) -> None:
        row = self._account_in(user, account, currency)
        if row.balance - amount < -row.overdraft_limit:
            raise Refusal("account.insufficient_funds")
        row.balance -= amount

    def _credit(self, user: str, account: str, amount: int, currency: str) -> None:
        row = self._account_in(user, account, currency)
        if row.balance + amount > money.MOST:
            raise Refusal("account.balance_limit")
        row.balance += amount

    def _account_in(self, user: str, account: str, currency: str) -> Account:
        row = self._account(user, account)
        if row.currency != currency:
            raise Refusal("account.currency_mismatch")
        return row

    def _rate(self, base: str, quote: str) -> Decimal | None:
        """Return a rate, or None if both currencies are the same."""
        if base == quote:
            return None
        if (base, quote) in self.tables.rates:
            return self.tables.rates[base, quote]
        if (quote, base) in self.tables.rates:
            return money.inverse(self.tables.rates[quote, base])
        raise Refusal("currency.rate_unknown")

    def _log(self, record: Record) -> None:
        self.tables.records[record.event] = record
