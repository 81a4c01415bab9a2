"""CategoryTransaction: records money that a user earned or spent."""

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
    """Credits the account for an income or debits it for an expense, adds the amount to the category, and logs it."""

    def locks(self, event: CategoryTransactionRequested) -> Sequence[str]:
        """Allow one process per user at a time."""
        return [f"user/{event.user_id}"]

    async def handle(self, event: CategoryTransactionRequested, saga: Saga) -> CategoryTransactionCompleted:
        """Refuse whatever an operation refuses."""
        user, category_id, amount = event.user_id, event.category_id, event.amount
        target = await saga.execute(category.details(user, category_id))
        worth = await saga.execute(metadata.value_in(user, amount, target.currency))
        move = account.deposit if target.budget_type is BudgetType.INCOME else account.withdraw
        _, added = await saga.execute_all(
            move(user, event.account_id, amount), category.add(user, category_id, worth.amount, target.currency_epoch)
        )
        record_id = await saga.execute(
            activity_log.record_category_change(
                user,
                event.account_id,
                category_id,
                target.budget_type,
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
            category_id=category_id,
            account_id=event.account_id,
            budget_type=target.budget_type,
            amount=amount,
            converted=worth.amount,
            rate=worth.rate,
        )
