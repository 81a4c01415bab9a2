"""MoneyTransfer: moves money between two accounts of a user, and converts it if their currencies differ."""

from collections.abc import Sequence

from activities import account, activity_log, metadata
from events.account import MoneyTransferCompleted, MoneyTransferFailed, MoneyTransferRequested
from orchestrator import Orchestrator, Refused, Saga


class MoneyTransfer(Orchestrator[MoneyTransferRequested, MoneyTransferCompleted, MoneyTransferFailed]):
    """Withdraws an amount, deposits its value in the target's currency, and logs both with the rate."""

    def locks(self, event: MoneyTransferRequested) -> Sequence[str]:
        """Allow one process per user at a time, so that no month is saved while money is between two accounts."""
        return [f"user/{event.user_id}"]

    async def handle(self, event: MoneyTransferRequested, saga: Saga) -> MoneyTransferCompleted:
        """Refuse with `account.same_account`, or with the refusal of an operation."""
        user, source, target = event.user_id, event.from_account_id, event.to_account_id
        if source == target:
            raise Refused("account.same_account", "a transfer needs two different accounts")
        arriving, rate = event.arriving, None
        if arriving is None:
            into = await saga.execute(account.currency_of(user, target))
            converted = await saga.execute(metadata.convert(user, event.amount, into))
            arriving, rate = converted.amount, converted.rate
        await saga.execute_all(
            account.withdraw(user, source, event.amount),
            account.deposit(user, target, arriving),
            activity_log.record_transfer(user, source, target, event.amount, arriving, rate),
        )
        return MoneyTransferCompleted(
            user_id=user, from_account_id=source, to_account_id=target, left=event.amount, arrived=arriving, rate=rate
        )
