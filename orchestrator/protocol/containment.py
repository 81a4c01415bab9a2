"""Calls an author's code in such a way that its exceptions end only the current attempt.

`except Exception` does not catch `SystemExit`, `KeyboardInterrupt`, `GeneratorExit` and `asyncio.CancelledError`. If a
step raised them, the first two would end the worker, and the last would look like a cancellation of the saga. They are
converted to a `CodeInterrupted`, an ordinary error, at the call. A cancellation by the engine itself and the closing of
a coroutine pass through unchanged.
"""

import asyncio
from types import TracebackType
from typing import Any

from orchestrator.errors import OrchestratorError, storable

_CONTAINED: tuple[type[BaseException], ...] = (
    asyncio.CancelledError,
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    BaseExceptionGroup,
)
"""The exceptions that the event loop would act on.

An author's own subclass of BaseException is not among them, because the event loop does not act on it; the attempt just
counts as failed.
"""


_BY_AUTHOR = "_raised_by_author"
"""The attribute that marks an error. The error itself must stay as it is, because people read its type and message."""


class CodeInterrupted(OrchestratorError):
    """An operation, a compensation, a verification, `locks` or `handle` raised something other than an `Exception`."""


class contained:
    """Context manager that converts exceptions which would end a process or a task into a `CodeInterrupted`.

    Args:
        what: the name of the author's code that is called, for the message.

    Raises:
        CodeInterrupted: the code raised such an exception itself; it was neither cancelled nor closed.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        self._task = _running_task()
        self._cancels = 0 if self._task is None else self._task.cancelling()

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(raised, Exception):
            raised.__dict__[_BY_AUTHOR] = True
        if (
            raised is None
            or isinstance(raised, Exception)
            or not isinstance(raised, _CONTAINED)
            or self._is_engines(raised)
        ):
            return
        raise interrupted(self._what, raised) from raised

    def _is_engines(self, raised: BaseException) -> bool:
        if isinstance(raised, asyncio.CancelledError):
            return self._task is not None and self._task.cancelling() > self._cancels
        # The garbage collector, or the end of the event loop, closes a coroutine from outside.
        return isinstance(raised, GeneratorExit) and is_closing(self._task)


def is_raised_by_author(fault: BaseException) -> bool:
    """Whether an error has passed through `contained`: the author's code raised it, and not the engine around it."""
    return _BY_AUTHOR in fault.__dict__


def interrupted(what: str, raised: BaseException) -> CodeInterrupted:
    """Return the error to raise in place of an exception that is not an `Exception`."""
    kind = type(raised).__name__
    text = f": {raised}" if str(raised) else ""
    error = CodeInterrupted(
        storable(
            f"{what} raised {kind}{text}. {kind} is not an Exception, so it counts as a failed attempt and ends "
            "neither the worker nor the saga. Raise an ordinary exception to fail, or orchestrator.Refused to refuse"
        )
    )
    error.__dict__[_BY_AUTHOR] = True
    return error


def is_closing(task: "asyncio.Task[Any] | None") -> bool:
    """Whether a GeneratorExit raised now comes from closing a coroutine of this task, rather than from its own code."""
    return _running_task() is not task or task is None


def _running_task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
