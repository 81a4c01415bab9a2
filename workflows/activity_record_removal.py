"""ActivityRecordRemoval: removes an income or an expense together with its effects."""

from collections.abc import Sequence

from activities import account, activity_log, category
from events.activity_log import (
    ActivityRecordRemovalCompleted,
    ActivityRecordRemovalFailed,
    ActivityRecordRemovalRequested,
)
from events.category import BudgetType
from orchestrator import Orchestrator, Saga


class ActivityRecordRemoval(
    Orchestrator[ActivityRecordRemovalRequested, ActivityRecordRemovalCompleted, ActivityRecordRemovalFailed]
):
    """Claims the record, reverses its amount in the account and the category, and deletes it."""

    def locks(self, event: ActivityRecordRemovalRequested) -> Sequence[str]:
        """Allow one process per user at a time."""
        return [f"user/{event.user_id}"]

    async def handle(self, event: ActivityRecordRemovalRequested, saga: Saga) -> ActivityRecordRemovalCompleted:
        """Refuse whatever an operation refuses, such as an income that has already been spent."""
        user = event.user_id
        record = await saga.execute(activity_log.claim_removal(user, event.record_id))
        if record.amount.amount_minor > 0:
            move = account.withdraw if record.budget_type is BudgetType.INCOME else account.deposit
            await saga.execute(move(user, record.account_id, record.amount))
        removed = await saga.execute(
            category.take_out(user, record.category_id, record.converted, record.reset_epoch, record.currency_epoch)
        )
        await saga.execute(activity_log.remove_record(user, event.record_id))
        return ActivityRecordRemovalCompleted(
            user_id=user, record_id=event.record_id, was_reset_since=removed.was_reset_since
        )
