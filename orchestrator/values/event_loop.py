"""Binds an object to one event loop, so that use in another one is refused with one sentence.

Locks, futures and PostgreSQL connections work only in the event loop in which they were made, and nothing that has
threads or sockets survives a fork. Without this check the symptoms are "bound to a different event loop", "another
operation is in progress", or a call that never returns.
"""

import asyncio
import os

from orchestrator.errors import UsageError


class LoopBinding:
    """The process in which an object was made, and the event loop in which it was first used.

    Args:
        what: the object in a message, such as "this EventBus".
        remedy: what to do instead, as a full sentence.
    """

    __slots__ = ("_loop", "_process", "_remedy", "_what")

    def __init__(self, what: str, remedy: str) -> None:
        self._what = what
        self._remedy = remedy
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> None:
        """Bind to the running event loop, or make sure that the object is bound to it.

        Raises:
            UsageError: the object belongs to another event loop, or to the process from which this one was forked.
        """
        loop = asyncio.get_running_loop()
        if self.is_foreign:
            raise UsageError(
                f"{self._what} was made before this process was forked, and connections do not survive a fork. "
                f"{self._remedy}"
            )
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            state = "has been closed" if self._loop.is_closed() else "is another thread's or another run's"
            raise UsageError(
                f"{self._what} belongs to the event loop in which it was first used, which {state}; each `asyncio.run` "
                f"makes a new one. {self._remedy}"
            )

    @property
    def is_foreign(self) -> bool:
        """Whether this process was forked from the one in which the object was made."""
        return self._process != os.getpid()

    @property
    def is_over(self) -> bool:
        """Whether its event loop is closed or in another process, so that nothing of it can be closed in order."""
        return self.is_foreign or (self._loop is not None and self._loop.is_closed())
