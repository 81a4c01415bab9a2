"""The simulation as anyone runs it, as a process; and that its audit sees what it is there to see."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from orchestrator.protocol.commands import Outcome
from orchestrator.protocol.envelope import saga_id
from starter.audit import Books, Kill, audit, kills_hit
from starter.workload import Workload, workload
from tests.app.running import RunningBooks
from tests.house import eventually
from workflows.account_creation import AccountCreation
from workflows.money_transfer import MoneyTransfer

ROOT = Path(__file__).parents[2]
PATIENCE = 120

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@asynccontextmanager
async def simulation(folder: Path, *arguments: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """The script with all that it makes in a folder; killed if the test does not wait for its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "starter.storm",
        *arguments,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def processes_of(folder: Path) -> list[int]:
    """Every process that was started with this folder in its environment."""
    mark = f"TMPDIR={folder}\0".encode()
    found: list[int] = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environment.read_bytes():
                found.append(int(environment.parent.name))
        except OSError:
            continue  # it ended while we looked, or is somebody else's
    return found


def left_in(folder: Path) -> list[str]:
    """Names of what is there."""
    return [found.name for found in folder.iterdir()]


@needs_proc
async def test_with_a_worker_killed_in_the_middle_every_check_holds_and_nothing_is_left_behind(tmp_path: Path) -> None:
    async with simulation(tmp_path, "--transfers", "30", "--kills", "1", "--seed", "7") as process:
        said = (await process.communicate())[0].decode()

    assert process.returncode == 0, said
    assert re.search(r"Worker \d+ was killed with SIGKILL after \d+ steps, [1-9]\d* sagas? in the middle", said)
    assert re.search(r"outcomes +30 ", said)
    assert re.search(r"workers killed +1 ", said)
    assert said.count("  holds  ") == 8
    assert "FAILS" not in said
    assert "every check held" in said
    assert left_in(tmp_path) == []
    assert processes_of(tmp_path) == []


@needs_proc
async def test_told_to_stop_it_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    async with simulation(tmp_path, "--kills", "0") as process:
        assert process.stdout is not None
        while b"requesting" not in (line := await process.stdout.readline()):
            assert line, "it ended too soon"
        process.send_signal(signal.SIGTERM)
        await process.communicate()

    assert process.returncode == 128 + signal.SIGTERM
    assert processes_of(tmp_path) == []
    assert left_in(tmp_path) == []


@needs_proc
async def test_killed_itself_it_takes_server_and_workers_with_it(tmp_path: Path) -> None:
    async with simulation(tmp_path, "--kills", "0") as process:
        assert process.stdout is not None
        while b"requesting" not in (line := await process.stdout.readline()):
            assert line, "it ended too soon"
        assert len(processes_of(tmp_path)) > 2
        process.kill()
        await process.communicate()

    async def none_is_left() -> bool:
        return processes_of(tmp_path) == []

    await eventually(none_is_left, "everything it started is gone")


@pytest.mark.parametrize("wrong", [["--transfers", "0"], ["--accounts", "1"], ["--kills", "many"]])
async def test_what_makes_no_sense_is_told_before_anything_starts(tmp_path: Path, wrong: list[str]) -> None:
    async with simulation(tmp_path, *wrong) as process:
        said = (await process.communicate())[0].decode()

    assert process.returncode == 2
    assert "is no whole number of at least" in said
    assert left_in(tmp_path) == []


def test_a_kill_that_hit_nothing_is_a_failed_check() -> None:
    hit, missed = Kill(worker=1, steps=9, midway=2, on_their_way=1), Kill(worker=2, steps=12, midway=0, on_their_way=0)

    assert kills_hit(1, [hit]).faults == []
    assert kills_hit(0, []).faults == []
    assert kills_hit(2, [hit, missed]).faults == ["worker 2 died when no saga was under way"]
    assert kills_hit(2, [hit]).faults == ["only 1, as all had ended by then: ask for more transfers"]


def test_a_seed_always_makes_the_same_transfers() -> None:
    def shape(seed: int) -> list[tuple[str, str, int, bool]]:
        work = workload(Random(seed), accounts=10, transfers=50)
        return [
            (
                transfer.from_account_id[-2:],
                transfer.to_account_id[-2:],
                transfer.amount.amount_minor,
                transfer.arriving is None,
            )
            for transfer in work.transfers.values()
        ]

    assert shape(1) == shape(1) != shape(2)


@pytest.mark.parametrize("accounts", [2, 3, 4, 5, 10])
def test_money_stays_within_its_currency(accounts: int) -> None:
    work = workload(Random(1), accounts=accounts, transfers=100)
    currencies = {account.account_id: account.currency for account in work.accounts}

    for transfer in work.transfers.values():
        assert currencies[transfer.from_account_id] == transfer.amount.currency
        assert currencies.get(transfer.to_account_id, transfer.amount.currency) == transfer.amount.currency


class Ran:
    """A small workload that has run, all well."""

    def __init__(self, work: Workload, told: dict[str, Outcome], before: Books, after: Books) -> None:
        self.work, self.told, self.before, self.after = work, told, before, after

    def faults(self, *, told: dict[str, Outcome] | None = None, **after: Any) -> list[str]:
        """What the checks find, with these told, or with this in the books."""
        checks = audit(self.work, self.told if told is None else told, self.before, replace(self.after, **after))
        return [f"{check.what}: {fault}" for check in checks for fault in check.faults]

    @property
    def a_completed(self) -> str:
        """Id of an event that completed."""
        return next(event_id for event_id, one in self.told.items() if one.error_code is None)

    def without(self, rows: str, which: Callable[[Any], bool]) -> dict[str, Any]:
        """The books with some rows gone."""
        return {rows: [row for row in getattr(self.after, rows) if not which(row)]}


@pytest.fixture
async def ran(running: RunningBooks) -> Ran:
    """Twelve transfers on the real server."""
    work = workload(Random(1), accounts=4, transfers=12)
    for account in work.accounts:
        await running.completes(AccountCreation, account)
    before = await Books.of(running.database, work)
    handles = [await running.house.bus.publish(one, event_id=event_id) for event_id, one in work.transfers.items()]
    told = {handle.event_id: await handle.outcome() for [handle] in handles}
    return Ran(work, told, before, await Books.of(running.database, work))


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
async def test_the_audit_sees_each_kind_of_damage(ran: Ran) -> None:
    after, event_id = ran.after, ran.a_completed
    key = saga_id(MoneyTransfer.__name__, event_id)
    transfer = ran.work.transfers[event_id]
    source = transfer.from_account_id
    assert ran.faults() == []
    undone = [step for step in after.steps if step["state"] == "undone"]
    assert undone, "the seed must make a transfer that is undone"

    def told(faults: list[str], *texts: str) -> None:
        assert faults
        for text in texts:
            assert any(text in fault for fault in faults), faults

    told(ran.faults(**ran.without("sagas", lambda row: row["id"] == key)), "has 0 sagas and 1 events in the outbox")
    told(ran.faults(**ran.without("sent", lambda row: row["saga_id"] == key)), "has 1 sagas and 0 events")
    told(ran.faults(sent=[*after.sent, *after.sent]), "has 1 sagas and 2 events in the outbox")
    told(ran.faults(told={}), "its publisher was told nothing")
    other = json.dumps({**json.loads(ran.told[event_id].model_dump_json()), "event_id": "another"})
    told(ran.faults(told={**ran.told, event_id: Outcome.model_validate_json(other)}), "not what is recorded")
    told(ran.faults(open_sagas=1), "no saga is open: 1")
    told(ran.faults(**ran.without("records", lambda row: row["event_id"] == event_id)), f"{event_id}: recorded []")
    told(ran.faults(records=[*after.records, *after.records]), f"{event_id}: recorded [(")
    told(
        ran.faults(balances={**after.balances, source: after.balances[source] + 1}),
        f"{source} holds",
        "the sum of each currency is unchanged",
    )
    told(ran.faults(steps=[*after.steps, {**undone[0], "state": "done"}]), "still stands")
    told(ran.faults(violations=["a sentence"]), "a sentence")
