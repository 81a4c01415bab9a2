"""Binds an object to one event loop, so that its use in another one is refused with a clear message.

Locks, futures and PostgreSQL connections work only in the event loop in which they were created, and an object that has
threads or sockets does not survive a fork. Without this check the symptoms are "bound to a different event loop",
"another operation is in progress", or a call that never returns.
"""

import asyncio
import os

from orchestrator.errors import UsageError


class LoopBinding:
    """The process in which an object was created, and the event loop in which it was first used.

    Args:
        what: the name of the object for messages, such as "this EventBus".
        remedy: a full sentence that says what to do instead.
    """

    __slots__ = ("_loop", "_process", "_remedy", "_what")

    def __init__(self, what: str, remedy: str) -> None:
        self._what = what
        self._remedy = remedy
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> None:
        """Bind the object to the running event loop, or verify that it is already bound to it.

        Raises:
            UsageError: the object belongs to another event loop, or to the process from which this one was forked.
        """
        loop = asyncio.get_running_loop()
        if self.is_foreign:
            raise UsageError(
                f"{self._what} was created before this process was forked, and connections do not survive a fork. "
                f"{self._remedy}"
            )
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            state = "has been closed" if self._loop.is_closed() else "belongs to another thread or another run"
            raise UsageError(
                f"{self._what} belongs to the event loop in which it was first used, which {state}; each `asyncio.run` "
                f"creates a new one. {self._remedy}"
            )

    @property
    def is_foreign(self) -> bool:
        """Whether this process was forked from the one in which the object was created."""
        return self._process != os.getpid()

    @property
    def is_over(self) -> bool:
        """Whether the event loop is closed or in another process, so that the object cannot be closed properly."""
        return self.is_foreign or (self._loop is not None and self._loop.is_closed())
