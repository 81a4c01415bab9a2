"""A connection that is awaited stays open; one that is opened with `async with` is closed at the end of the block."""

import asyncio

import pytest

from orchestrator.client.connecting import Connecting


class Line:
    """Something to close."""

    opened = 0

    def __init__(self) -> None:
        self.is_closed = False
        Line.opened += 1

    @classmethod
    async def connect(cls) -> "Line":
        """Connect after a moment."""
        await asyncio.sleep(0)
        return cls()

    async def close(self) -> None:
        """Close after a moment."""
        await asyncio.sleep(0)
        self.is_closed = True


async def test_an_awaited_connection_stays_open() -> None:
    line = await Connecting(Line.connect)

    assert not line.is_closed


async def test_a_block_closes_its_connection_whatever_happens_in_it() -> None:
    lines: list[Line] = []

    async def use(key: str) -> bool:
        async with Connecting(Line.connect) as line:
            lines.append(line)
            return {"open": line.is_closed}[key]

    assert await use("open") is False
    with pytest.raises(KeyError):
        await use("a bug")

    assert [line.is_closed for line in lines] == [True, True]


async def test_nothing_is_connected_before_it_is_asked_for() -> None:
    before = Line.opened

    Connecting(Line.connect)

    assert Line.opened == before
