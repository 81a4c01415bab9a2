"""A pair of PostgreSQL servers keeps every commit when the standby takes over."""

from pathlib import Path

import pytest
from sqlalchemy import text

from orchestrator.store.core.database import Database
from tests.chaos.pair import PostgresPair


@pytest.mark.exhaustive
async def test_the_standby_takes_over_with_every_commit_and_the_old_primary_becomes_its_standby(tmp_path: Path) -> None:
    pair = PostgresPair(tmp_path / "pair")
    try:
        await pair.start()
        database = Database(pair.url)
        async with database.transaction() as connection:
            await connection.execute(text("CREATE TABLE committed (id integer)"))
        for number in range(3):
            async with database.transaction() as connection:
                await connection.execute(text("INSERT INTO committed VALUES (:id)"), {"id": number})
            await pair.fail_over()
        async with database.transaction() as connection:
            committed = list(await connection.scalars(text("SELECT id FROM committed ORDER BY id")))
            standbys = (await connection.execute(text("SELECT count(*) FROM pg_stat_replication"))).scalar_one()
        await database.close()
    finally:
        await pair.close()

    assert committed == [0, 1, 2]
    assert standbys == 1
