"""`orchestrator purge` as a person runs it, and what `status` shows of a saga afterwards."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from orchestrator import SagaFailed
from orchestrator.store.core.schema import saga
from tests.cast import Script, refuses
from tests.cast_events import CoinsMoveRequested
from tests.cli.shell import Shell
from tests.house import House, new_id
from tests.orchestrators import CoinsMove

EVENT = CoinsMoveRequested(source="a", target="b", coins=10)


async def test_it_shows_asks_and_deletes_and_the_outcome_remains(house: House, at_home: Shell) -> None:
    event_id = new_id()
    Script.before["put"] = refuses()
    with pytest.raises(SagaFailed):
        await house.bus.execute(CoinsMove, EVENT, event_id=event_id)
    async with house.database.transaction() as connection:
        long_ago = datetime.now(UTC) - timedelta(days=100)
        await connection.execute(update(saga).values(finished_at=long_ago))

    shown = await at_home.run("purge", "--older-than", "90d", "--dry-run")
    unconfirmed = await at_home.run("purge", "--older-than", "90d")
    assert (shown.code, unconfirmed.code) == (0, 2), f"{shown}{unconfirmed}"
    assert "of 1 saga" in shown.out
    assert "2 steps of 1 saga that ended before" in shown.out
    assert len(await house.steps()) == 2
    done = await at_home.run("purge", "--older-than", "90d", "--yes", "--json")
    again = await at_home.run("purge", "--older-than", "90d", "--dry-run")

    assert done.code == 0, str(done)
    counted = {name: done.document[name] for name in ("sagas", "steps", "outbox", "dead_letters", "held")}
    assert counted == {"sagas": 1, "steps": 2, "outbox": 0, "dead_letters": 0, "held": 0}
    assert "There is no data older than" in again.out
    assert await house.steps() == []
    status = await at_home.run("status", event_id, "--arguments")
    assert status.code == 1, str(status)
    assert f"purged on {datetime.now(UTC):%Y-%m-%d}" in status.out
    with pytest.raises(SagaFailed):
        await house.bus.saga(CoinsMove, event_id).result()
    listed = await at_home.run("list", "--json")
    assert [saga["phase"] for saga in listed.document["sagas"]] == ["failed"]
    skipped = await at_home.run("skip", event_id, "1", "--reason", "never mind", "--yes")
    assert "has already ended" in skipped.out, str(skipped)


@pytest.mark.parametrize(("days", "part"), [("0d", "at least one"), ("soon", "90d"), (None, "--older-than 90d")])
async def test_an_invalid_age_is_rejected(nowhere: Shell, days: str | None, part: str) -> None:
    arguments = [] if days is None else ["--older-than", days]

    ran = await nowhere.at(ORCHESTRATOR_RETENTION="").run("purge", *arguments)

    assert ran.code == 2, str(ran)
    assert part in ran.err
