"""MonthReset: saves a month that has ended, and sets its categories to zero."""

from collections.abc import Sequence

from activities import account, category, metadata, snapshot
from activities.snapshot import CategoryOfMonth
from events.snapshot import MonthResetCompleted, MonthResetFailed, MonthResetRequested
from orchestrator import Orchestrator, Saga


class MonthReset(Orchestrator[MonthResetRequested, MonthResetCompleted, MonthResetFailed]):
    """Claims the month, so that it is reset only once, sets the categories to zero, and saves their values.

    The saved values are those that the reset itself returned, so that nothing can change in between.
    """

    def locks(self, event: MonthResetRequested) -> Sequence[str]:
        """Allow one process per user at a time."""
        return [f"user/{event.user_id}"]

    async def handle(self, event: MonthResetRequested, saga: Saga) -> MonthResetCompleted:
        """Do nothing if this month or a later one has already been reset. Refuse whatever an operation refuses."""
        user, month = event.user_id, event.month
        claim = await saga.execute(metadata.claim_month(user, month))
        if claim.is_due:
            currency = await saga.execute(metadata.display_currency(user))
            holdings = await saga.execute(account.holdings(user))
            full_balance = await saga.execute(metadata.total_in(user, holdings, currency))
            resets = await saga.execute(category.reset(user, None))
            categories = tuple(
                CategoryOfMonth(
                    category_id=reset.category_id, name=reset.name, budget_type=reset.budget_type, value=reset.value
                )
                for reset in resets
            )
            await saga.execute(snapshot.save_month(user, month, currency, full_balance, categories))
        return MonthResetCompleted(user_id=user, month=month, was_due=claim.is_due)
