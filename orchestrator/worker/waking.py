"""Waking sagas that waited for a lock: a signal to whoever drives them, on which nothing depends."""

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta

from temporalio.client import Client
from temporalio.service import RPCError

from orchestrator.store.locks import Woken
from orchestrator.workflow import names

_PATIENCE = timedelta(seconds=5)


class SignalWaker:
    """A `Waker` that signals the execution that owns a saga. It starts none, and who does not hear looks by itself."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._sending: set[asyncio.Task[None]] = set()

    async def __call__(self, woken: Sequence[Woken]) -> None:
        """Begin to send; the finish that found them does not wait for it."""
        owners = dict.fromkeys(one.owner_workflow_id for one in woken if one.owner_workflow_id)
        for owner in owners:
            sending = asyncio.create_task(self._wake(owner))
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)

    async def _wake(self, workflow_id: str) -> None:
        with contextlib.suppress(RPCError):
            await self._client.get_workflow_handle(workflow_id).signal(names.WAKE_SIGNAL, rpc_timeout=_PATIENCE)
