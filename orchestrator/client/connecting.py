"""What `EventBus.connect` returns: it can be awaited, or opened with `async with`, which closes the bus at the end."""

from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar


class Closable(Protocol):
    """Something with connections."""

    async def close(self) -> None:
        """Close the connections."""
        ...


B_co = TypeVar("B_co", bound=Closable, covariant=True)


class Connecting(Generic[B_co]):
    """A connection that is made when this is awaited, or when its `async with` block begins.

    Args:
        connect: makes the connection.
    """

    def __init__(self, connect: Callable[[], Awaitable[B_co]]) -> None:
        self._connect = connect
        self._opened: list[B_co] = []

    def __await__(self) -> Generator[Any, Any, B_co]:
        return self._connect().__await__()

    async def __aenter__(self) -> B_co:
        self._opened.append(await self._connect())
        return self._opened[-1]

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.pop().close()
