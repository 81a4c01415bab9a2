"""The account domain: accounts, their balances, and what moves them.

A balance only ever changes by a difference, in the database, with its check in the same statement: two sagas at once
lose nothing, whatever they read before. Knows no other domain.
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
"""What the column holds at most, either way. An operation refuses at `MONEY_LIMIT`, an undoing never does: it needs
room beyond, and a thousand of the largest amounts still end before SQLite turns an integer into a float at 2**63."""


class AccountState(StrEnum):
    """Whether others may use an account."""

    OPENING = "opening"
    """Being created: to everybody but its own creation it is not there."""
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
        # What records point at: an account together with whose it is.
        Index("uq_account_user_id_id", "user_id", "id", unique=True),
    )

    id: str = Field(primary_key=True, max_length=64)
    user_id: str = Field(max_length=64, index=True)
    name: str = Field(max_length=100)
    currency: str = Field(max_length=3)
    balance: int = Field(sa_type=BigInteger)
    """In the currency's minor unit, as the two fields below."""
    opening_balance: int = Field(sa_type=BigInteger)
    overdraft_limit: int = Field(sa_type=BigInteger)
    icon: str = Field(max_length=64)
    colour: str = Field(max_length=7)
    position: int
    """The order in the user's list; equals, which two creations at one moment may draw, go by id."""
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
    """Put an account in place, last in the user's list. Nobody sees it before `open_account`.

    Raises:
        Refused: `account.already_exists`, also when it is another user's.
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
        raise Refused("account.already_exists", f"the account id {account_id} is taken: choose another")


@prepare.compensation
async def remove(tx: Transaction, user_id: UserId, account_id: AccountId) -> None:
    """Take the account away again. It is still `opening`, so nobody else can have touched it."""
    removed = await tx.exec(delete(Account).where(*_owned(user_id, account_id, AccountState.OPENING)))
    must_have_changed(removed, f"the opening account {account_id}")


@operation(irreversible="others may use the account from here on")
async def open_account(tx: Transaction, user_id: UserId, account_id: AccountId) -> None:
    """Let others use a prepared account.

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
    """The currency an account is kept in; it never changes.

    Raises:
        Refused: `account.not_found`.
    """
    found = (await tx.exec(select(Account.currency).where(*_owned(user_id, account_id, AccountState.OPEN)))).first()
    if found is None:
        raise _not_found(account_id)
    return Currency(found)


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
            "account.insufficient_funds", f"the account {account_id} holds too little to take {amount.shown()} out"
        )
    raise ChangedMeanwhile(f"the account {account_id} refused a withdrawal that it would now allow")


@withdraw.compensation
async def put_back(tx: Transaction, user_id: UserId, account_id: AccountId, amount: PositiveMoney) -> None:
    """Put back what was withdrawn, also where the balance is over its limit by now."""
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
        raise Refused("account.balance_limit", f"the account {account_id} cannot hold {amount.shown()} more")
    raise ChangedMeanwhile(f"the account {account_id} refused a deposit that it would now allow")


@deposit.compensation
async def take_back(tx: Transaction, user_id: UserId, account_id: AccountId, amount: PositiveMoney) -> None:
    """Take back what was deposited, also where that passes the overdraft limit: the money may be spent by now."""
    await _change(tx, user_id, account_id, -amount.amount_minor)


@operation
async def set_balance(tx: Transaction, user_id: UserId, account_id: AccountId, value: Money) -> Money:
    """Set an account's balance. Returns the difference, less than zero if the account held more.

    Raises:
        Refused: `account.not_found` or `account.currency_mismatch`; `account.insufficient_funds` if the value is less
            than there is and under minus the overdraft limit; `account.balance_limit` if the difference is more than
            one amount may be.
    """
    found = (
        await tx.exec(select(Account).where(*_owned(user_id, account_id, AccountState.OPEN)).with_for_update())
    ).first()
    if found is None:
        raise _not_found(account_id)
    if found.currency != value.currency:
        raise _mismatch(account_id, value.currency)
    difference = value.amount_minor - found.balance
    if difference < 0 and value.amount_minor < -found.overdraft_limit:
        raise Refused("account.insufficient_funds", f"the account {account_id} may not go down to {value.shown()}")
    if abs(difference) > MONEY_LIMIT:
        raise Refused("account.balance_limit", f"the account {account_id} is too far from {value.shown()}")
    await _change(tx, user_id, account_id, difference)
    return Money(amount_minor=difference, currency=value.currency)


@set_balance.compensation
async def set_back(tx: Transaction, user_id: UserId, account_id: AccountId, result: Money) -> None:
    """Restore the balance by the same difference: what others did meanwhile stays."""
    await _change(tx, user_id, account_id, -result.amount_minor)


@query
async def holdings(tx: Transaction, user_id: UserId) -> tuple[Holding, ...]:
    """What is on each open account of a user, by the account's id."""
    found = await tx.exec(
        select(Account)
        .where(col(Account.user_id) == user_id, col(Account.state) == AccountState.OPEN)
        .order_by(col(Account.id))
    )
    return tuple(Holding(amount_minor=one.balance, currency=Currency(one.currency)) for one in found)


async def _change(tx: Transaction, user_id: UserId, account_id: AccountId, difference: int) -> None:
    balance = col(Account.balance)
    changed = await tx.exec(
        update(Account).where(*_owned(user_id, account_id, AccountState.OPEN)).values(balance=balance + difference)
    )
    must_have_changed(changed, f"the account {account_id}")


def _owned(user_id: UserId, account_id: AccountId, state: AccountState) -> Sequence[ColumnElement[bool]]:
    """An account of this user: another's row answers like a missing one, because it never matches."""
    return (col(Account.id) == account_id, col(Account.user_id) == user_id, col(Account.state) == state)


async def _usable(tx: Transaction, user_id: UserId, account_id: AccountId, currency: Currency) -> Account:
    """The account as it stands, to find out what a statement that matched nothing ran into."""
    found = (await tx.exec(select(Account).where(*_owned(user_id, account_id, AccountState.OPEN)))).first()
    if found is None:
        raise _not_found(account_id)
    if found.currency != currency:
        raise _mismatch(account_id, currency)
    return found


def _mismatch(account_id: AccountId, currency: Currency) -> Refused:
    return Refused("account.currency_mismatch", f"the account {account_id} is not kept in {currency}")


def _not_found(account_id: AccountId) -> Refused:
    return Refused("account.not_found", f"there is no account {account_id}")
