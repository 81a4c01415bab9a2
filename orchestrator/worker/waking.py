"""Waking sagas that waited for a lock: a signal to whoever drives them, on which nothing depends."""

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
_NAMED = 100
"""Sagas that one signal names."""


Recover = Callable[[Sequence[UUID]], Awaitable[None]]
"""Sees that these sagas go on, whose execution runs no more. Never raises; recovery finds them later by itself."""


async def recover_later(sagas: Sequence[UUID]) -> None:
    """Leave them to recovery's next sweeps."""


class SignalWaker:
    """A `Waker` that signals the execution that owns a saga. Who does not hear looks by itself.

    As a context manager it has sent what it began, or tried for five seconds, when it ends.

    Args:
        client: a connection.
        recover: is told of sagas whose owner runs no more: in a line of them each would wait for recovery in turn.
    """

    def __init__(self, client: Client, recover: Recover = recover_later) -> None:
        self._client = client
        self._recover = recover
        self._sending: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._sending:
            _, left = await asyncio.wait(self._sending, timeout=_PATIENCE.total_seconds())
            for sending in left:
                sending.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def __call__(self, woken: Sequence[Woken]) -> None:
        """Begin to send; the finish that found them does not wait for it."""
        sagas: dict[str, list[SagaRef]] = {}
        for one in woken:
            if one.owner_workflow_id:
                sagas.setdefault(one.owner_workflow_id, []).append(one.saga)
        for owner, owned in sagas.items():
            for first in range(0, len(owned), _NAMED):
                sending = asyncio.create_task(self._wake(owner, owned[first : first + _NAMED]))
                self._sending.add(sending)
                sending.add_done_callback(self._sending.discard)

    async def _wake(self, workflow_id: str, sagas: Sequence[SagaRef]) -> None:
        # A partition looks at those alone: it may have hundreds that wait.
        named = [saga.event_id for saga in sagas] if names.is_partition(workflow_id) else ()
        if await self._is_heard(workflow_id, named):
            return
        # Recovery gave it an execution, which does not own it while it waits; or nobody drives it.
        own = {saga.id: names.own_workflow_id(saga.orchestrator, saga.event_id) for saga in sagas}
        alone = [key for key, own_id in own.items() if own_id == workflow_id or not await self._is_heard(own_id, ())]
        if alone:
            await self._recover(alone)

    async def _is_heard(self, workflow_id: str, named: Sequence[str]) -> bool:
        """False: no such execution runs."""
        try:
            owner = self._client.get_workflow_handle(workflow_id)
            async with request_slot():
                await owner.signal(names.WAKE_SIGNAL, args=named, rpc_timeout=_PATIENCE)
        except RPCError as fault:
            return fault.status is not RPCStatusCode.NOT_FOUND
        return True
