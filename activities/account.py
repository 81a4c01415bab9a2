"""The account domain: accounts, their balances, and the operations that change them. It knows no other domain.

A balance only ever changes by a difference, in the database, with its check in the same statement. Two concurrent sagas
therefore lose no update, whatever they have read before.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, ColumnElement, Index, delete, func
from sqlmodel import Field, SQLModel, col, select, update

from activities.statements import ChangedMeanwhile, insert_into, must_have_changed
from events.identity import AccountId, UserId
from events.money import MONEY_LIMIT, Currency, Holding, Money, PositiveMoney
from orchestrator import Refused, Transaction, operation, query
from orchestrator.store.core.columns import UtcTime

BALANCE_CEILING = MONEY_LIMIT * 1_000
"""The column's bound in both directions. An operation refuses at `MONEY_LIMIT`, but a compensation never refuses and
needs room beyond it. A thousand of the largest amounts still fit before SQLite turns an integer into a float at 2**63.
"""


class AccountState(StrEnum):
    """Whether others may use an account."""

    OPENING = "opening"
    """Being created. Only the saga that creates it sees it."""
    OPEN = "open"


class Account(SQLModel, table=True):
    """One account of one user."""

    __table_args__ = (
        CheckConstraint("state IN ('opening', 'open')", name="account_state_known"),
        CheckConstraint(f"balance BETWEEN -{BALANCE_CEILING} AND {BALANCE_CEILING}", name="account_balance_bounded"),
        CheckConstraint(
            f"opening_balance BETWEEN -{MONEY_LIMIT} AND {MONEY_LIMIT}", name="account_opening_balance_bounded"
        ),
        CheckConstraint(f"overdraft_limit BETWEEN 0 AND {MONEY_LIMIT}", name="account_overdraft_limit_bounded"),
        CheckConstraint("position > 0", name="account_position_positive"),
        # The target of the foreign keys of records: an account together with its user.
        Index("uq_account_user_id_id", "user_id", "id", unique=True),
    )

    id: str = Field(primary_key=True, max_length=64)
    user_id: str = Field(max_length=64, index=True)
    name: str = Field(max_length=100)
    currency: str = Field(max_length=3)
    balance: int = Field(sa_type=BigInteger)
    """In the currency's minor unit, like the two fields below."""
    opening_balance: int = Field(sa_type=BigInteger)
    overdraft_limit: int = Field(sa_type=BigInteger)
    icon: str = Field(max_length=64)
    colour: str = Field(max_length=7)
    position: int
    """The order in the user's list. Two concurrent creations may get the same position; these are ordered by id."""
    state: str = Field(max_length=7)
    opened_at: datetime | None = Field(default=None, sa_type=UtcTime)


@operation
async def prepare(
    tx: Transaction,
    user_id: UserId,
    account_id: AccountId,
    name: str,
    currency: Currency,
    opening_balance: int,
    overdraft_limit: int,
    icon: str,
    colour: str,
) -> None:
    """Insert an account as the last in the user's list. Nobody sees it before `open_account`.

    Raises:
        Refused: `account.already_exists`, also if the account is another user's.
    """
    last = select(func.coalesce(func.max(Account.position), 0)).where(Account.user_id == user_id).scalar_subquery()
    inserted = await tx.exec(
        insert_into(tx, Account)
        .values(
            id=account_id,
            user_id=user_id,
            name=name,
            currency=currency,
            balance=opening_balance,
            opening_balance=opening_balance,
            overdraft_limit=overdraft_limit,
            icon=icon,
            colour=colour,
            position=last + 1,
            state=AccountState.OPENING,
        )
        .on_conflict_do_nothing(index_elements=["id"])
    )
    if inserted.rowcount != 1:
        raise Refused("account.already_exists", f"the account id {account_id} is already used; choose another")


@prepare.compensation
async def remove(tx: Transaction, user_id: UserId, account_id: AccountId) -> None:
    """Delete the account. It is still `opening`, so no other saga can have used it."""
    removed = await tx.exec(delete(Account).where(*_owned(user_id, account_id, AccountState.OPENING)))
    must_have_changed(removed, f"the opening account {account_id}")


@operation(irreversible="others may use the account from now on")
async def open_account(tx: Transaction, user_id: UserId, account_id: AccountId) -> None:
    """Open a prepared account, so that others may use it.

    Raises:
        Refused: `account.not_found`.
    """
    opened = await tx.exec(
        update(Account)
        .where(*_owned(user_id, account_id, AccountState.OPENING))
        .values(state=AccountState.OPEN, opened_at=tx.event_time)
    )
    if opened.rowcount != 1:
        raise _not_found(account_id)


@query
async def currency_of(tx: Transaction, user_id: UserId, account_id: AccountId) -> Currency:
    """Return the currency of an account, which never changes.

    Raises:
        Refused: `account.not_found`.
    """
    currency = (await tx.exec(select(Account.currency).where(*_owned(user_id, account_id, AccountState.OPEN)))).first()
    if currency is None:
        raise _not_found(account_id)
    return Currency(currency)


@operation
async def withdraw(tx: Transaction, user_id: UserId, account_id: AccountId, amount: PositiveMoney) -> None:
    """Take money out of an account, down to its overdraft limit.

    Raises:
        Refused: `account.not_found`, `account.currency_mismatch` or `account.insufficient_funds`.
    """
    balance = col(Account.balance)
    withdrawn = await tx.exec(
        update(Account)
        .where(
            *_owned(user_id, account_id, AccountState.OPEN),
            col(Account.currency) == amount.currency,
            balance - amount.amount_minor >= -col(Account.overdraft_limit),
        )
        .values(balance=balance - amount.amount_minor)
    )
    if withdrawn.rowcount == 1:
        return
    account = await _usable(tx, user_id, account_id, amount.currency)
    if account.balance - amount.amount_minor < -account.overdraft_limit:
        raise Refused(
            "account.insufficient_funds", f"the account {account_id} does not hold enough to withdraw {amount.shown()}"
        )
    raise ChangedMeanwhile(f"the account {account_id} refused a withdrawal that it would allow now")


@withdraw.compensation
async def put_back(tx: Transaction, user_id: UserId, account_id: AccountId, amount: PositiveMoney) -> None:
    """Add the withdrawn amount again, even if the balance exceeds its limit by now."""
    await _change(tx, user_id, account_id, amount.amount_minor)


@operation
async def deposit(tx: Transaction, user_id: UserId, account_id: AccountId, amount: PositiveMoney) -> None:
    """Add money to an account.

    Raises:
        Refused: `account.not_found`, `account.currency_mismatch` or `account.balance_limit`.
    """
    balance = col(Account.balance)
    deposited = await tx.exec(
        update(Account)
        .where(
            *_owned(user_id, account_id, AccountState.OPEN),
            col(Account.currency) == amount.currency,
            balance + amount.amount_minor <= MONEY_LIMIT,
        )
        .values(balance=balance + amount.amount_minor)
    )
    if deposited.rowcount == 1:
        return
    account = await _usable(tx, user_id, account_id, amount.currency)
    if account.balance + amount.amount_minor > MONEY_LIMIT:
        raise Refused(
            "account.balance_limit", f"the account {account_id} would exceed its limit with {amount.shown()} more"
        )
    raise ChangedMeanwhile(f"the account {account_id} refused a deposit that it would allow now")


@deposit.compensation
async def take_back(tx: Transaction, user_id: UserId, account_id: AccountId, amount: PositiveMoney) -> None:
    """Subtract the deposited amount again, even beyond the overdraft limit, because the money may be spent by now."""
    await _change(tx, user_id, account_id, -amount.amount_minor)


@operation
async def set_balance(tx: Transaction, user_id: UserId, account_id: AccountId, value: Money) -> Money:
    """Set an account's balance. Returns the difference, which is negative if the account held more.

    Raises:
        Refused: `account.not_found` or `account.currency_mismatch`; `account.insufficient_funds` if the value is lower
            than the balance and below the overdraft limit; `account.balance_limit` if the difference is larger than
            the largest amount.
    """
    row = (
        await tx.exec(select(Account).where(*_owned(user_id, account_id, AccountState.OPEN)).with_for_update())
    ).first()
    if row is None:
        raise _not_found(account_id)
    if row.currency != value.currency:
        raise _mismatch(account_id, value.currency)
    difference = value.amount_minor - row.balance
    if difference < 0 and value.amount_minor < -row.overdraft_limit:
        raise Refused(
            "account.insufficient_funds", f"the balance of the account {account_id} may not become {value.shown()}"
        )
    if abs(difference) > MONEY_LIMIT:
        raise Refused(
            "account.balance_limit", f"the balance of the account {account_id} differs too much from {value.shown()}"
        )
    await _change(tx, user_id, account_id, difference)
    return Money(amount_minor=difference, currency=value.currency)


@set_balance.compensation
async def set_back(tx: Transaction, user_id: UserId, account_id: AccountId, result: Money) -> None:
    """Apply the opposite difference. Changes that other sagas made meanwhile are kept."""
    await _change(tx, user_id, account_id, -result.amount_minor)


@query
async def holdings(tx: Transaction, user_id: UserId) -> tuple[Holding, ...]:
    """Return the balance of each open account of a user, ordered by the account's id."""
    accounts = await tx.exec(
        select(Account)
        .where(col(Account.user_id) == user_id, col(Account.state) == AccountState.OPEN)
        .order_by(col(Account.id))
    )
    return tuple(Holding(amount_minor=account.balance, currency=Currency(account.currency)) for account in accounts)


async def _change(tx: Transaction, user_id: UserId, account_id: AccountId, difference: int) -> None:
    balance = col(Account.balance)
    changed = await tx.exec(
        update(Account).where(*_owned(user_id, account_id, AccountState.OPEN)).values(balance=balance + difference)
    )
    must_have_changed(changed, f"the account {account_id}")


def _owned(user_id: UserId, account_id: AccountId, state: AccountState) -> Sequence[ColumnElement[bool]]:
    """Match an account only if this user owns it, so that another user's account counts as missing."""
    return (col(Account.id) == account_id, col(Account.user_id) == user_id, col(Account.state) == state)


async def _usable(tx: Transaction, user_id: UserId, account_id: AccountId, currency: Currency) -> Account:
    """Read the account, to find out why a statement matched no row."""
    account = (await tx.exec(select(Account).where(*_owned(user_id, account_id, AccountState.OPEN)))).first()
    if account is None:
        raise _not_found(account_id)
    if account.currency != currency:
        raise _mismatch(account_id, currency)
    return account


def _mismatch(account_id: AccountId, currency: Currency) -> Refused:
    return Refused("account.currency_mismatch", f"the account {account_id} is not kept in {currency}")


def _not_found(account_id: AccountId) -> Refused:
    return Refused("account.not_found", f"there is no account {account_id}")
