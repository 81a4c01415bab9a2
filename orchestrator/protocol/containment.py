"""Calls an author's code so that nothing it raises can end more than its own attempt.

Python lets four exceptions through every `except Exception`: `SystemExit`, `KeyboardInterrupt`, `GeneratorExit` and
`asyncio.CancelledError`. Raised by a step, the first two would end the worker, and the last would look like a cancel of
the saga. They become a `CodeInterrupted`, an ordinary error, at the call. What the engine cancels itself, and a
coroutine that is closed, pass through unchanged.
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
"""What means something else to the event loop than to the code that raised it.

An author's own subclass of BaseException means nothing to anybody: whoever runs the attempt counts it as failed.
"""


class CodeInterrupted(OrchestratorError):
    """An operation, a compensation, a verification, `locks` or `handle` raised what is no `Exception`."""


class contained:
    """Turn what would end a process or a task into a `CodeInterrupted`, for an author's code called in the block.

    Args:
        what: name of the code that is called, for the message.

    Raises:
        CodeInterrupted: the code raised one of those, and neither a cancel of this task nor a close caused it.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        self._task = _running_task()
        self._cancels = 0 if self._task is None else self._task.cancelling()

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        # A coroutine is closed from outside: by the garbage collector, or when its loop ends.
        return isinstance(raised, GeneratorExit) and is_closing(self._task)


def interrupted(what: str, raised: BaseException) -> CodeInterrupted:
    """The error to raise instead of an exception that is no `Exception`."""
    kind = type(raised).__name__
    said = f": {raised}" if str(raised) else ""
    return CodeInterrupted(
        storable(
            f"{what} raised {kind}{said}. {kind} is no Exception; it counts as a failed attempt and ends neither the "
            "worker nor the saga. Raise an ordinary exception to fail, or orchestrator.Refused to say no"
        )
    )


def is_closing(task: "asyncio.Task[Any] | None") -> bool:
    """Whether a GeneratorExit that arrives now comes from closing a coroutine of this task, not from its own code."""
    return _running_task() is not task or task is None


def _running_task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
