"""What a person sees of the outbox: which events wait, since when, and why."""

import asyncio
from datetime import timedelta

import pytest

from orchestrator import outbox
from orchestrator.cli.main import run
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_outbox
from orchestrator.store.outbox import postpone
from tests.cast_events import NothingRequested
from tests.cli.shell import Ran
from tests.house import rows

EVENT = NothingRequested(refuse=False)


async def test_waiting_events_are_shown_with_their_age_attempts_and_last_error(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", database.url.render_as_string(hide_password=False))

    async def typed(line: str) -> Ran:
        code = await asyncio.to_thread(run, line.split())
        output = capsys.readouterr()
        return Ran(code, output.out, output.err)

    nothing = await typed("outbox")
    async with database.transaction() as connection:
        await outbox.add(connection, EVENT, key="k")
        await outbox.add(connection, EVENT, key="k")
        await outbox.add(connection, EVENT)
    [first, *_] = await rows(database, saga_outbox)
    await postpone(database, [(first.id, "RPCError: nobody is there", timedelta(minutes=1))])

    plain, document, cut = await typed("outbox"), await typed("outbox --json"), await typed("outbox --limit 1")

    assert (nothing.code, nothing.out) == (0, "No event is waiting to be sent.\n")
    keyed, unkeyed = [line.split() for line in plain.out.splitlines()[1:3]]
    assert keyed[:4] == ["NOTHING_REQUESTED", "k", "home", "2"]
    assert unkeyed[:3] == ["NOTHING_REQUESTED", "home", "1"]  # its age follows, which depends on the machine
    assert "1         RPCError: nobody is there" in plain.out
    assert "3 waiting\n" in plain.out
    assert "3 waiting, of which the oldest 1 are shown" in cut.out
    [home] = document.document["databases"]
    assert (home["database"], home["waiting"]) == ("home", 3)
    assert home["lag_seconds"] > 0
    assert [(group["key"], group["waiting"], group["attempts"], group["error"]) for group in home["groups"]] == [
        ("k", 2, 1, "RPCError: nobody is there"),
        (None, 1, 0, None),
    ]
