"""A client of the payment service, plain HTTP in a thread, that a test can stop or break at each request."""

import asyncio
import http.client
import json
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

PORT_VARIABLE = "PAYMENT_SERVICE_PORT"
"""Environment variable with the service's port, for worker processes."""
_PATIENCE = 5.0
_threads = ThreadPoolExecutor(64, thread_name_prefix="wire")


@dataclass(frozen=True, slots=True)
class LookupReply:
    """The service's reply."""

    status: int
    content: dict[str, Any]


class Wire:
    """The service's port, and what happens before and after a request, by the operation's name."""

    port: ClassVar[int] = int(os.environ.get(PORT_VARIABLE, "0"))
    before: ClassVar[dict[str, Callable[[], Awaitable[None]]]] = {}
    """Run before a request is sent."""
    after: ClassVar[dict[str, Callable[[], Awaitable[None]]]] = {}
    """Run after the reply has arrived."""

    @classmethod
    def clear(cls) -> None:
        """Remove all hooks."""
        cls.before.clear()
        cls.after.clear()

    @classmethod
    async def call(cls, name: str, method: str, path: str, **request: Any) -> LookupReply:
        """Send one request of an operation, with its hooks."""
        if name in cls.before:
            await cls.before[name]()
        answer = await cls.ask(method, path, **request)
        if name in cls.after:
            await cls.after[name]()
        return answer

    @classmethod
    async def ask(cls, method: str, path: str, *, key: str | None = None, body: object = None) -> LookupReply:
        """Send one request.

        Raises:
            OSError: the request cannot be sent.
            http.client.HTTPException: the reply is lost.
        """
        return await asyncio.get_running_loop().run_in_executor(_threads, _ask, cls.port, method, path, key, body)


def _ask(port: int, method: str, path: str, key: str | None, body: object) -> LookupReply:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        connection.request(
            method, path, body=json.dumps(body or {}), headers={} if key is None else {"Idempotency-Key": key}
        )
        response = connection.getresponse()
        return LookupReply(response.status, json.loads(response.read()))
    finally:
        connection.close()


def breaks(times: int | None = None) -> Callable[[], Awaitable[None]]:
    """Break the connection `times` times, or always."""
    remaining = [times]

    async def act() -> None:
        if remaining[0] is None or remaining[0] > 0:
            remaining[0] = None if remaining[0] is None else remaining[0] - 1
            raise ConnectionResetError("the wire is broken by the test")

    return act


class Hold:
    """A point at which a request waits until the test lets it continue."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self._deaf = deaf
        """Whether even the time limit does not end the wait, as in a suspended process that continues later."""

    async def __call__(self) -> None:
        self.reached.set()
        waiting = asyncio.ensure_future(self.opened.wait())
        while not waiting.done():
            try:
                await asyncio.shield(waiting)
            except asyncio.CancelledError:
                if not self._deaf:
                    waiting.cancel()
                    raise


class Died(BaseException):
    """A worker's process has died; the engine may not catch this."""


async def dies() -> None:
    """Let the worker die at this point."""
    raise Died


def once(act: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Act only for the first request that reaches this point."""
    acts = [act]

    async def at_first() -> None:
        if acts:
            await acts.pop()()

    return at_first
