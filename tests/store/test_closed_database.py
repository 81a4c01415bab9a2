"""A database that this process has closed."""

from typing import Any

import pytest
from sqlalchemy import text

from orchestrator import Unreachable
from orchestrator.store.database import Database


async def test_a_connection_in_use_when_it_is_closed_is_closed_as_it_comes_back_and_there_is_none_any_more(
    database: Database,
) -> None:
    async with database.reading() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await database.close()
        await connection.execute(text("SELECT 1"))
    assert driver.is_closed() if database.dialect == "postgresql" else driver._connection is None
    with pytest.raises(Unreachable, match="was closed"):
        async with database.reading():
            pass
