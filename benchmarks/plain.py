"""The plain Temporal saga that the engine is compared with, as a good team would write it with Temporal alone.

It has regular activities with a retry policy, registers each compensation before the activity that it undoes, and uses
pydantic's converter and the sandbox.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from benchmarks.plain_activities import Activities, Entry, Side, Transfer

_ACTIVITY_TIMEOUT = timedelta(seconds=10)
_RETRIES = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_attempts=10)
_UNLIMITED_RETRIES = RetryPolicy(initial_interval=timedelta(milliseconds=100))


@workflow.defn
class PlainTransfer:
    """Three activities with one transaction each."""

    @workflow.run
    async def run(self, transfer: Transfer) -> UUID:
        """Withdraw, deposit and record. If anything fails, undo what was done."""
        withdrawal = Side(account=transfer.source, amount=transfer.amount)
        deposit = Side(account=transfer.target, amount=transfer.amount)
        entry = Entry(id=workflow.uuid4(), transfer=transfer)
        compensations: list[tuple[Callable[..., Any], Any]] = []
        try:
            compensations.append((Activities.put_back, withdrawal))
            await workflow.execute_activity_method(
                Activities.withdraw, withdrawal, start_to_close_timeout=_ACTIVITY_TIMEOUT, retry_policy=_RETRIES
            )
            compensations.append((Activities.take_back, deposit))
            await workflow.execute_activity_method(
                Activities.deposit, deposit, start_to_close_timeout=_ACTIVITY_TIMEOUT, retry_policy=_RETRIES
            )
            compensations.append((Activities.erase, entry))
            return await workflow.execute_activity_method(
                Activities.record, entry, start_to_close_timeout=_ACTIVITY_TIMEOUT, retry_policy=_RETRIES
            )
        except BaseException:
            for compensation, argument in reversed(compensations):
                await workflow.execute_activity(
                    compensation, argument, start_to_close_timeout=_ACTIVITY_TIMEOUT, retry_policy=_UNLIMITED_RETRIES
                )
            raise


@workflow.defn
class PlainAtomicTransfer:
    """One activity with one transaction, which needs no compensation."""

    @workflow.run
    async def run(self, transfer: Transfer) -> UUID:
        """Withdraw, deposit and record in one activity."""
        entry = Entry(id=workflow.uuid4(), transfer=transfer)
        return await workflow.execute_activity_method(
            Activities.transfer, entry, start_to_close_timeout=_ACTIVITY_TIMEOUT, retry_policy=_RETRIES
        )
