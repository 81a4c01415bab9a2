"""A house for each test."""

from collections.abc import AsyncGenerator

import pytest

from tests.app.house import House, a_house


@pytest.fixture
async def house() -> AsyncGenerator[House]:
    """SmartExpense on a new SQLite file, with the demo's accounts and rates."""
    async with a_house() as made:
        yield made
