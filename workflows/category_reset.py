"""CategoryReset: sets every category of one budget type to zero."""

from collections.abc import Sequence

from activities import activity_log, category
from events.category import CategoryResetCompleted, CategoryResetFailed, CategoryResetRequested
from orchestrator import Orchestrator, Saga


class CategoryReset(Orchestrator[CategoryResetRequested, CategoryResetCompleted, CategoryResetFailed]):
    """Sets every category of the type to zero, and logs it."""

    def locks(self, event: CategoryResetRequested) -> Sequence[str]:
        """Allow one process per user at a time."""
        return [f"user/{event.user_id}"]

    async def handle(self, event: CategoryResetRequested, saga: Saga) -> CategoryResetCompleted:
        """Reset and log; none of these operations refuses."""
        categories, _ = await saga.execute_all(
            category.reset(event.user_id, event.budget_type),
            activity_log.record_reset(event.user_id, event.budget_type),
        )
        return CategoryResetCompleted(user_id=event.user_id, budget_type=event.budget_type, categories=len(categories))
