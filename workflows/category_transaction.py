"""CategoryTransaction: money that is earned or spent, in its account, its category and the log."""

from collections.abc import Sequence

from activities import account, activity_log, category, metadata
from events.category import (
    BudgetType,
    CategoryTransactionCompleted,
    CategoryTransactionFailed,
    CategoryTransactionRequested,
)
from orchestrator import Orchestrator, Saga


class CategoryTransaction(
    Orchestrator[CategoryTransactionRequested, CategoryTransactionCompleted, CategoryTransactionFailed]
):
    """Credits the account for income, debits it for an expense; adds the converted amount to the category; logs it."""

    def locks(self, event: CategoryTransactionRequested) -> Sequence[str]:
        """One process of a user's categories at a time."""
        return [f"user/{event.user_id}"]

    async def handle(self, event: CategoryTransactionRequested, saga: Saga) -> CategoryTransactionCompleted:
        """Refused with what its operations refuse with."""
        user, of, amount = event.user_id, event.category_id, event.amount
        kept = await saga.execute(category.details(user, of))
        worth = await saga.execute(metadata.value_in(user, amount, kept.currency))
        move = account.deposit if kept.budget_type is BudgetType.INCOME else account.withdraw
        _, added = await saga.execute_batch(
            move(user, event.account_id, amount), category.add(user, of, worth.amount, kept.currency_epoch)
        )
        record_id = await saga.execute(
            activity_log.record_category_change(
                user,
                event.account_id,
                of,
                kept.budget_type,
                amount,
                worth.amount,
                worth.rate,
                event.note,
                added.reset_epoch,
                added.currency_epoch,
            )
        )
        await saga.execute(activity_log.open_record(user, record_id))
        return CategoryTransactionCompleted(
            user_id=user,
            category_id=of,
            account_id=event.account_id,
            budget_type=kept.budget_type,
            amount=amount,
            converted=worth.amount,
            rate=worth.rate,
        )
