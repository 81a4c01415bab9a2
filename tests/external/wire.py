"""The way to the payment service: plain HTTP in a thread, with points at which a test can stop or break it."""

import asyncio
import http.client
import json
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

PORT_VARIABLE = "PAYMENT_SERVICE_PORT"
"""Tells a worker process where the service is."""
_PATIENCE = 5.0
_threads = ThreadPoolExecutor(64, thread_name_prefix="wire")


@dataclass(frozen=True, slots=True)
class LookupReply:
    """What the service said."""

    status: int
    content: dict[str, Any]


class Wire:
    """Where the service is, and what happens on the way there and back, by the operation's name."""

    port: ClassVar[int] = int(os.environ.get(PORT_VARIABLE, "0"))
    before: ClassVar[dict[str, Callable[[], Awaitable[None]]]] = {}
    """Run before a request is sent."""
    after: ClassVar[dict[str, Callable[[], Awaitable[None]]]] = {}
    """Run when the reply has come."""

    @classmethod
    def clear(cls) -> None:
        """A wire that works."""
        cls.before.clear()
        cls.after.clear()

    @classmethod
    async def call(cls, name: str, method: str, path: str, **request: Any) -> LookupReply:
        """One request of an operation."""
        if name in cls.before:
            await cls.before[name]()
        answer = await cls.ask(method, path, **request)
        if name in cls.after:
            await cls.after[name]()
        return answer

    @classmethod
    async def ask(cls, method: str, path: str, *, key: str | None = None, body: object = None) -> LookupReply:
        """One request.

        Raises:
            OSError: it cannot be sent.
            http.client.HTTPException: its reply is lost.
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
    """The connection breaks: `times` times, or always."""
    left = [times]

    async def act() -> None:
        if left[0] is None or left[0] > 0:
            left[0] = None if left[0] is None else left[0] - 1
            raise ConnectionResetError("the wire is broken by the test")

    return act


class Hold:
    """A point at which the wire holds a request until the test lets it go on."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self._deaf = deaf
        """Not even its time limit ends the wait: as a process that was stopped and goes on later."""

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
    """A worker's process ended here: nothing of the engine's may catch it."""


async def dies() -> None:
    """The worker dies at this point."""
    raise Died


def once(act: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """The first to come here does it."""
    acts = [act]

    async def at_first() -> None:
        if acts:
            await acts.pop()()

    return at_first
