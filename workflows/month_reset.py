"""MonthReset: a month that is over is put on record, and its categories start again from zero."""

from collections.abc import Sequence

from activities import account, category, metadata, snapshot
from activities.snapshot import CategoryOfMonth
from events.snapshot import MonthResetCompleted, MonthResetFailed, MonthResetRequested
from orchestrator import Orchestrator, Saga


class MonthReset(Orchestrator[MonthResetRequested, MonthResetCompleted, MonthResetFailed]):
    """Claims the month first, so that two resets of it cannot both run; zeroes the categories, and saves what they had.

    What is saved is what the reset itself took: nothing can come in between.
    """

    def locks(self, event: MonthResetRequested) -> Sequence[str]:
        """One process of a user's categories at a time."""
        return [f"user/{event.user_id}"]

    async def handle(self, event: MonthResetRequested, saga: Saga) -> MonthResetCompleted:
        """Nothing to do if this month, or a later one, was reset. Refused with what its operations refuse with."""
        user, month = event.user_id, event.month
        claim = await saga.execute(metadata.claim_month(user, month))
        if claim.is_due:
            currency = await saga.execute(metadata.display_currency(user))
            holdings = await saga.execute(account.holdings(user))
            full_balance = await saga.execute(metadata.total_in(user, holdings, currency))
            had = await saga.execute(category.reset(user, None))
            categories = tuple(
                CategoryOfMonth(
                    category_id=one.category_id, name=one.name, budget_type=one.budget_type, value=one.value
                )
                for one in had
            )
            await saga.execute(snapshot.save_month(user, month, currency, full_balance, categories))
        return MonthResetCompleted(user_id=user, month=month, was_due=claim.is_due)
