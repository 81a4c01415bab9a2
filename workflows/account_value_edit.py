"""AccountValueEdit: sets the balance of an account to the value that the user has counted."""

from collections.abc import Sequence

from activities import account, activity_log, category, metadata
from events.account import AccountValueEditCompleted, AccountValueEditFailed, AccountValueEditRequested
from events.category import BudgetType
from events.money import Money
from orchestrator import Orchestrator, Saga


class AccountValueEdit(Orchestrator[AccountValueEditRequested, AccountValueEditCompleted, AccountValueEditFailed]):
    """Sets the balance, adds the difference to a system category as an income or expense, and logs it with the note."""

    def locks(self, event: AccountValueEditRequested) -> Sequence[str]:
        """Allow one process per user at a time."""
        return [f"user/{event.user_id}"]

    async def handle(self, event: AccountValueEditRequested, saga: Saga) -> AccountValueEditCompleted:
        """Refuse whatever an operation refuses. An unchanged balance is logged as an income of zero."""
        user = event.user_id
        difference = await saga.execute(account.set_balance(user, event.account_id, event.value))
        budget_type = BudgetType.INCOME if difference.amount_minor >= 0 else BudgetType.EXPENSE
        amount = Money(amount_minor=abs(difference.amount_minor), currency=difference.currency)
        target = await saga.execute(category.system_category(user, budget_type))
        worth = await saga.execute(metadata.value_in(user, amount, target.currency))
        added = await saga.execute(category.add(user, target.category_id, worth.amount, target.currency_epoch))
        record_id = await saga.execute(
            activity_log.record_category_change(
                user,
                event.account_id,
                target.category_id,
                budget_type,
                amount,
                worth.amount,
                worth.rate,
                event.note,
                added.reset_epoch,
                added.currency_epoch,
            )
        )
        await saga.execute(activity_log.open_record(user, record_id))
        return AccountValueEditCompleted(user_id=user, account_id=event.account_id, difference=difference)
