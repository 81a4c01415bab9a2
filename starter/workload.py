"""What the simulation asks for: accounts, and transfers between them that complete, are refused, or are undone halfway.

The same seed makes the same transfers; their ids are new each time, so that a database may be used again.
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
"""Minor units that move at most where an account may have them; what is out of reach is more than there can be."""

_STEPS_AT_THE_RATE = 5
_STEPS_AS_NAMED = 3


@dataclass(frozen=True, slots=True)
class Workload:
    """Accounts to open, and transfers to request all at once."""

    accounts: tuple[AccountCreated, ...]
    transfers: dict[str, MoneyTransferRequested]
    """By event id."""

    @property
    def steps(self) -> int:
        """How many steps the transfers have if all of them complete."""
        return sum(_STEPS_AS_NAMED if one.arriving else _STEPS_AT_THE_RATE for one in self.transfers.values())

    @property
    def users(self) -> frozenset[UserId]:
        """Whose accounts these are."""
        return frozenset(account.user_id for account in self.accounts)


def workload(random: Random, *, accounts: int, transfers: int) -> Workload:
    """Accounts, two a user and in one currency, and transfers between a user's own, so that no sum can change.

    Args:
        random: decides everything but the ids.
        accounts: how many, at least two.
        transfers: how many. About one in seven is for more than there is or to an account that is not there; half of
            those to nowhere learn of it only when the money has left.
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
    others = [one for one in accounts if one.user_id == source.user_id and one is not source]
    target = random.choice(others).account_id
    amount = Money(amount_minor=random.randint(1, _MOST), currency=source.currency)
    is_named = random.random() < 0.5
    match random.choices(("fine", "too much", "nowhere"), weights=(85, 5, 10))[0]:
        case "too much":
            amount = Money(amount_minor=len(accounts) * _OPENING + 1, currency=source.currency)
        case "nowhere":
            target = AccountId(f"{source.user_id}-nowhere")
        case _:
            pass
    return MoneyTransferRequested(
        user_id=source.user_id,
        from_account_id=source.account_id,
        to_account_id=target,
        amount=amount,
        arriving=amount if is_named else None,
    )
