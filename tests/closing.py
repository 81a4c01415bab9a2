"""A bus whose handles report an outcome only after the saga's execution has closed.

An outcome is in the database a moment before its execution closes. Tests that look at the execution, its history or
its dead letters next need both.
"""

import asyncio
import copy
from typing import Any, TypeVar

from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError

from orchestrator.client import EventBus, SagaHandle
from orchestrator.definition.catalog import AnyOrchestrator
from orchestrator.event import DomainEvent
from orchestrator.orchestrator import Orchestrator
from orchestrator.protocol.commands import Outcome
from orchestrator.protocol.messages.envelope import Envelope
from orchestrator.protocol.names import is_partition

C = TypeVar("C", bound=DomainEvent)

CLOSE_TIMEOUT = 5.0
"""Seconds. An execution may also hang for good while another one drives its saga."""


class ClosingHandle(SagaHandle[C]):
    """A handle that also waits for the execution of its saga."""

    async def _outcome(self) -> Outcome:
        outcome = await super()._outcome()
        if not is_partition(self.workflow_id):
            await closed(self)
        return outcome


class ClosingBus(EventBus):
    """A bus that returns such handles."""

    def saga(self, orchestrator: type[Orchestrator[Any, C, Any]], event_id: str) -> SagaHandle[C]:
        """Return a handle for a saga that was started before."""
        return _closing(super().saga(orchestrator, event_id))

    async def _send(self, listener: AnyOrchestrator, event: DomainEvent | None, envelope: Envelope) -> SagaHandle[Any]:
        return _closing(await super()._send(listener, event, envelope))


async def closed(saga: SagaHandle[Any]) -> None:
    """Wait until the execution is no longer running, for at most `CLOSE_TIMEOUT`."""
    execution = saga._client.get_workflow_handle(saga.workflow_id)  # pyright: ignore[reportPrivateUsage]
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            while (await execution.describe()).status is WorkflowExecutionStatus.RUNNING:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    except (RPCError, TimeoutError):
        return


def _closing(handle: SagaHandle[C]) -> SagaHandle[C]:
    closing: SagaHandle[C] = copy.copy(handle)
    closing.__class__ = ClosingHandle
    return closing
