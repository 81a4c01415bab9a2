"""The workload of the storm: accounts, and transfers that complete, are refused, or are undone halfway.

The same seed creates the same transfers. Their ids are new each time, so that a database can be used again.
"""

from dataclasses import dataclass
from random import Random
from uuid import uuid4

from events.account import AccountCreated, MoneyTransferRequested
from events.identity import AccountId, UserId
from events.money import Currency, Money

_CURRENCIES = (Currency("USD"), Currency("JPY"), Currency("KWD"))
_OPENING = 5_000
_MOST = 1_000
"""The largest regular transfer, in minor units. A transfer that must be refused exceeds the sum of all accounts."""

_STEPS_WITH_A_RATE = 5
_STEPS_WITH_BOTH_AMOUNTS = 3


@dataclass(frozen=True, slots=True)
class Workload:
    """Accounts to open, and transfers to request all at once."""

    accounts: tuple[AccountCreated, ...]
    transfers: dict[str, MoneyTransferRequested]
    """The transfers by event id."""

    @property
    def steps(self) -> int:
        """The number of steps if all transfers complete."""
        return sum(
            _STEPS_WITH_BOTH_AMOUNTS if event.arriving else _STEPS_WITH_A_RATE for event in self.transfers.values()
        )

    @property
    def users(self) -> frozenset[UserId]:
        """The owners of the accounts."""
        return frozenset(account.user_id for account in self.accounts)


def workload(random: Random, *, accounts: int, transfers: int) -> Workload:
    """Create accounts and transfers.

    Each user has two accounts in one currency. Transfers are between a user's own accounts, so that the sum of a
    currency never changes.

    Args:
        random: decides everything except the ids.
        accounts: the number of accounts, at least two.
        transfers: the number of transfers. About one in seven has an amount that is too large or a missing target. Half
            of those with a missing target are refused only after the money was withdrawn.
    """
    run = uuid4().hex[:8]
    users = accounts // 2
    opened = [_account(run, number, number % users) for number in range(accounts)]
    return Workload(
        tuple(opened),
        {f"simulation-{run}-{number:04}": _transfer(random, opened) for number in range(1, transfers + 1)},
    )


def _account(run: str, number: int, user: int) -> AccountCreated:
    return AccountCreated(
        user_id=UserId(f"simulation-{run}-{user}"),
        account_id=AccountId(f"simulation-{run}-{number}"),
        name=f"Account {number}",
        currency=_CURRENCIES[user % len(_CURRENCIES)],
        opening_balance=_OPENING,
        icon="wallet",
        colour="#2f9e44",
    )


def _transfer(random: Random, accounts: list[AccountCreated]) -> MoneyTransferRequested:
    source = random.choice(accounts)
    others = [account for account in accounts if account.user_id == source.user_id and account is not source]
    target = random.choice(others).account_id
    amount = Money(amount_minor=random.randint(1, _MOST), currency=source.currency)
    names_both_amounts = random.random() < 0.5
    match random.choices(("regular", "too much", "missing target"), weights=(85, 5, 10))[0]:
        case "too much":
            amount = Money(amount_minor=len(accounts) * _OPENING + 1, currency=source.currency)
        case "missing target":
            target = AccountId(f"{source.user_id}-nowhere")
        case _:
            pass
    return MoneyTransferRequested(
        user_id=source.user_id,
        from_account_id=source.account_id,
        to_account_id=target,
        amount=amount,
        arriving=amount if names_both_amounts else None,
    )
