"""AccountCreation: creates an account that other processes can use once everything else is done."""

from activities import account, activity_log, metadata
from events.account import AccountCreated, AccountCreationCompleted, AccountCreationFailed
from events.money import Money
from orchestrator import Orchestrator, Saga


class AccountCreation(Orchestrator[AccountCreated, AccountCreationCompleted, AccountCreationFailed]):
    """Prepares an account, logs and counts it, and opens it last, so that nobody can use it before."""

    async def handle(self, event: AccountCreated, saga: Saga) -> AccountCreationCompleted:
        """Refuse with `account.already_exists` if the id is already used."""
        opening_balance = Money(amount_minor=event.opening_balance, currency=event.currency)
        await saga.execute_all(
            account.prepare(
                event.user_id,
                event.account_id,
                event.name,
                event.currency,
                event.opening_balance,
                event.overdraft_limit,
                event.icon,
                event.colour,
            ),
            activity_log.record_account_created(event.user_id, event.account_id, opening_balance),
            metadata.count_account(event.user_id),
            account.open_account(event.user_id, event.account_id),
        )
        return AccountCreationCompleted(user_id=event.user_id, account_id=event.account_id)
