"""The plain Temporal saga that the engine is measured against: as a good team writes it with Temporal alone.

Regular activities with a retry policy, compensations noted before what they undo, pydantic's converter, the sandbox on.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from benchmarks.plain_activities import Activities, Entry, Side, Transfer

_PATIENCE = timedelta(seconds=10)
_RETRIES = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_attempts=10)
_UNDONE_UNTIL_IT_IS = RetryPolicy(initial_interval=timedelta(milliseconds=100))


@workflow.defn
class PlainTransfer:
    """Three activities, a transaction each."""

    @workflow.run
    async def run(self, transfer: Transfer) -> UUID:
        """Withdraw, deposit, record; whatever fails, undo what was done."""
        taken = Side(account=transfer.source, amount=transfer.amount)
        added = Side(account=transfer.target, amount=transfer.amount)
        entry = Entry(id=workflow.uuid4(), transfer=transfer)
        compensations: list[tuple[Callable[..., Any], Any]] = []
        try:
            compensations.append((Activities.put_back, taken))
            await workflow.execute_activity_method(
                Activities.withdraw, taken, start_to_close_timeout=_PATIENCE, retry_policy=_RETRIES
            )
            compensations.append((Activities.take_back, added))
            await workflow.execute_activity_method(
                Activities.deposit, added, start_to_close_timeout=_PATIENCE, retry_policy=_RETRIES
            )
            compensations.append((Activities.erase, entry))
            return await workflow.execute_activity_method(
                Activities.record, entry, start_to_close_timeout=_PATIENCE, retry_policy=_RETRIES
            )
        except BaseException:
            for compensation, argument in reversed(compensations):
                await workflow.execute_activity(
                    compensation, argument, start_to_close_timeout=_PATIENCE, retry_policy=_UNDONE_UNTIL_IT_IS
                )
            raise


@workflow.defn
class PlainAtomicTransfer:
    """One activity with one transaction, which needs no undoing."""

    @workflow.run
    async def run(self, transfer: Transfer) -> UUID:
        """Withdraw, deposit and record at once."""
        entry = Entry(id=workflow.uuid4(), transfer=transfer)
        return await workflow.execute_activity_method(
            Activities.transfer, entry, start_to_close_timeout=_PATIENCE, retry_policy=_RETRIES
        )
