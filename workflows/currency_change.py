"""CurrencyChange: changes the currency in which a user's categories are kept."""

from collections.abc import Sequence

from activities import activity_log, category, metadata
from events.metadata import CurrencyChangeCompleted, CurrencyChangeFailed, CurrencyChangeRequested
from orchestrator import Orchestrator, Saga


class CurrencyChange(Orchestrator[CurrencyChangeRequested, CurrencyChangeCompleted, CurrencyChangeFailed]):
    """Sets the display currency, converts every category's value, and logs the change with its rate."""

    def locks(self, event: CurrencyChangeRequested) -> Sequence[str]:
        """Allow one process per user at a time."""
        return [f"user/{event.user_id}"]

    async def handle(self, event: CurrencyChangeRequested, saga: Saga) -> CurrencyChangeCompleted:
        """Refuse whatever an operation refuses."""
        user, currency = event.user_id, event.currency
        before = await saga.execute(metadata.change_display_currency(user, currency))
        rate = await saga.execute(metadata.rate_between(user, before, currency))
        conversion = await saga.execute(category.convert_all(user, before, currency, rate))
        await saga.execute(activity_log.record_currency_change(user, before, currency, rate, conversion.currency_epoch))
        return CurrencyChangeCompleted(user_id=user, before=before, currency=currency, rate=rate)
