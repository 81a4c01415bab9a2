"""MoneyTransfer with a change that breaks executions in progress."""

from activities import account, activity_log
from events.account import MoneyTransferCompleted, MoneyTransferFailed, MoneyTransferRequested
from orchestrator import Orchestrator, Saga


class MoneyTransfer(Orchestrator[MoneyTransferRequested, MoneyTransferCompleted, MoneyTransferFailed]):
    """Deposits before it withdraws."""

    async def handle(self, event: MoneyTransferRequested, saga: Saga) -> MoneyTransferCompleted:
        arriving = event.arriving or event.amount
        user, source, target = event.user_id, event.from_account_id, event.to_account_id
        await saga.execute(account.deposit(user, target, arriving))
        await saga.execute(account.withdraw(user, source, event.amount))
        await saga.execute(activity_log.record_transfer(user, source, target, event.amount, arriving, None))
        return MoneyTransferCompleted(
            user_id=user, from_account_id=source, to_account_id=target, left=event.amount, arrived=arriving, rate=None
        )
