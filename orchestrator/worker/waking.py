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
_NAMED = 100
"""Sagas that one signal names."""


class SignalWaker:
    """A `Waker` that signals the execution that owns a saga. It starts none, and who does not hear looks by itself."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._sending: set[asyncio.Task[None]] = set()

    async def __call__(self, woken: Sequence[Woken]) -> None:
        """Begin to send; the finish that found them does not wait for it."""
        sagas: dict[str, list[str]] = {}
        for one in woken:
            if one.owner_workflow_id:
                sagas.setdefault(one.owner_workflow_id, []).append(one.saga.event_id)
        for owner, event_ids in sagas.items():
            sending = asyncio.create_task(self._wake(owner, event_ids))
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)

    async def _wake(self, workflow_id: str, event_ids: Sequence[str]) -> None:
        # A partition looks at those alone: it may have hundreds that wait.
        named = event_ids if names.is_partition(workflow_id) and len(event_ids) <= _NAMED else ()
        with contextlib.suppress(RPCError):
            owner = self._client.get_workflow_handle(workflow_id)
            await owner.signal(names.WAKE_SIGNAL, args=named, rpc_timeout=_PATIENCE)
