"""Wakes sagas that wait for a lock by signalling the executions that drive them.

No saga depends on the signal, because waiting sagas also check their locks by themselves.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Self
from uuid import UUID

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.client.in_flight import request_slot
from orchestrator.protocol import names
from orchestrator.protocol.commands import SagaRef
from orchestrator.store.locks import Woken

_PATIENCE = timedelta(seconds=5)
"""How long one signal may take, and how long pending signals may take when the worker drains."""
_NAMED = 100
"""The maximum number of event ids in one signal."""


Recover = Callable[[Sequence[UUID]], Awaitable[None]]
"""Resumes sagas whose execution no longer runs. Never raises, because recovery also finds them later."""


async def recover_later(sagas: Sequence[UUID]) -> None:
    """Do nothing, because the next sweeps of recovery find the sagas."""


class SignalWaker:
    """A `Waker` that signals the execution that owns a saga.

    As a context manager it waits on exit until its signals are sent, for at most five seconds.

    Args:
        client: a connection to Temporal.
        recover: called with sagas whose owner no longer runs. If they were left to the next sweep, each saga of a lock
            queue would wait for another sweep.
    """

    def __init__(self, client: Client, recover: Recover = recover_later) -> None:
        self._client = client
        self._recover = recover
        self._sending: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._sending:
            _, unsent = await asyncio.wait(self._sending, timeout=_PATIENCE.total_seconds())
            for sending in unsent:
                sending.cancel()
            await asyncio.gather(*unsent, return_exceptions=True)

    async def __call__(self, woken: Sequence[Woken]) -> None:
        """Send signals in the background, so that the saga that released the locks does not wait."""
        sagas: dict[str, list[SagaRef]] = {}
        for waiter in woken:
            if waiter.owner_workflow_id:
                sagas.setdefault(waiter.owner_workflow_id, []).append(waiter.saga)
        for owner, owned in sagas.items():
            for first in range(0, len(owned), _NAMED):
                sending = asyncio.create_task(self._wake(owner, owned[first : first + _NAMED]))
                self._sending.add(sending)
                sending.add_done_callback(self._sending.discard)

    async def _wake(self, workflow_id: str, sagas: Sequence[SagaRef]) -> None:
        # A partition checks only the sagas in this list, because hundreds of its sagas may be waiting.
        event_ids = [saga.event_id for saga in sagas] if names.is_partition(workflow_id) else ()
        if await self._signal(workflow_id, event_ids):
            return
        # Either recovery has started the saga's own execution, which does not own the saga while it waits for a lock,
        # or no execution drives the saga.
        own_ids = {saga.id: names.own_workflow_id(saga.orchestrator, saga.event_id) for saga in sagas}
        stalled = [
            key for key, own_id in own_ids.items() if own_id == workflow_id or not await self._signal(own_id, ())
        ]
        if stalled:
            await self._recover(stalled)

    async def _signal(self, workflow_id: str, event_ids: Sequence[str]) -> bool:
        """Send the wake signal. Return whether such an execution may be running."""
        try:
            execution = self._client.get_workflow_handle(workflow_id)
            async with request_slot():
                await execution.signal(names.WAKE_SIGNAL, args=event_ids, rpc_timeout=_PATIENCE)
        except RPCError as fault:
            return fault.status is not RPCStatusCode.NOT_FOUND
        return True
