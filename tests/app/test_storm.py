"""The storm as a process, as a person runs it; and its audit, which must find each kind of damage."""

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
from orchestrator.protocol.messages.envelope import saga_id
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
    """Run the script with all its files in a folder; kill it if the test does not wait for its end."""
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
    """Return the ids of all processes that have this folder in their environment."""
    variable = f"TMPDIR={folder}\0".encode()
    pids: list[int] = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if variable in environment.read_bytes():
                pids.append(int(environment.parent.name))
        except OSError:
            continue  # the process has just ended or belongs to another user
    return pids


def names_in(folder: Path) -> list[str]:
    """Return the names of the files in a folder."""
    return [file.name for file in folder.iterdir()]


@needs_proc
async def test_after_a_worker_was_killed_every_check_holds_and_nothing_is_left_behind(tmp_path: Path) -> None:
    async with simulation(tmp_path, "--transfers", "30", "--kills", "1", "--seed", "7") as process:
        output = (await process.communicate())[0].decode()

    assert process.returncode == 0, output
    assert re.search(r"Worker \d+ was killed with SIGKILL after \d+ steps, [1-9]\d* sagas? in the middle", output)
    assert re.search(r"outcomes +30 ", output)
    assert re.search(r"workers killed +1 ", output)
    assert output.count("  holds  ") == 8
    assert "FAILS" not in output
    assert "every check holds" in output
    assert names_in(tmp_path) == []
    assert processes_of(tmp_path) == []


@needs_proc
async def test_when_terminated_it_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    async with simulation(tmp_path, "--kills", "0") as process:
        assert process.stdout is not None
        while b"requesting" not in (line := await process.stdout.readline()):
            assert line, "the script ended too soon"
        process.send_signal(signal.SIGTERM)
        await process.communicate()

    assert process.returncode == 128 + signal.SIGTERM
    assert processes_of(tmp_path) == []
    assert names_in(tmp_path) == []


@needs_proc
async def test_when_killed_it_takes_the_server_and_the_workers_with_it(tmp_path: Path) -> None:
    async with simulation(tmp_path, "--kills", "0") as process:
        assert process.stdout is not None
        while b"requesting" not in (line := await process.stdout.readline()):
            assert line, "the script ended too soon"
        assert len(processes_of(tmp_path)) > 2
        process.kill()
        await process.communicate()

    async def all_ended() -> bool:
        return processes_of(tmp_path) == []

    await eventually(all_ended, "every process that the script started has ended")


@pytest.mark.parametrize("wrong", [["--transfers", "0"], ["--accounts", "1"], ["--kills", "many"]])
async def test_invalid_options_are_rejected_before_anything_starts(tmp_path: Path, wrong: list[str]) -> None:
    async with simulation(tmp_path, *wrong) as process:
        output = (await process.communicate())[0].decode()

    assert process.returncode == 2
    assert "is not a whole number of at least" in output
    assert names_in(tmp_path) == []


def test_a_kill_that_interrupted_nothing_is_a_failed_check() -> None:
    hit, missed = Kill(worker=1, steps=9, midway=2, in_transit=1), Kill(worker=2, steps=12, midway=0, in_transit=0)

    assert kills_hit(1, [hit]).faults == []
    assert kills_hit(0, []).faults == []
    assert kills_hit(2, [hit, missed]).faults == ["worker 2 died when no saga was in flight"]
    assert kills_hit(2, [hit]).faults == ["only 1 were killed before all sagas had ended; run more transfers"]


def test_a_seed_determines_the_transfers() -> None:
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
    """A small workload that has run, with the books before and after."""

    def __init__(self, work: Workload, outcomes: dict[str, Outcome], before: Books, after: Books) -> None:
        self.work, self.outcomes, self.before, self.after = work, outcomes, before, after

    def faults(self, *, outcomes: dict[str, Outcome] | None = None, **after: Any) -> list[str]:
        """What the checks find, with other outcomes or with changed books."""
        checks = audit(
            self.work, self.outcomes if outcomes is None else outcomes, self.before, replace(self.after, **after)
        )
        return [f"{check.what}: {fault}" for check in checks for fault in check.faults]

    @property
    def a_completed(self) -> str:
        """The id of an event that completed."""
        return next(event_id for event_id, outcome in self.outcomes.items() if outcome.error_code is None)

    def without(self, rows: str, which: Callable[[Any], bool]) -> dict[str, Any]:
        """The books without some rows."""
        return {rows: [row for row in getattr(self.after, rows) if not which(row)]}


@pytest.fixture
async def ran(running: RunningBooks) -> Ran:
    """Run twelve transfers on the real server."""
    work = workload(Random(1), accounts=4, transfers=12)
    for account in work.accounts:
        await running.completes(AccountCreation, account)
    before = await Books.of(running.database, work)
    handles = [
        await running.house.bus.publish(transfer, event_id=event_id) for event_id, transfer in work.transfers.items()
    ]
    outcomes = {handle.event_id: await handle.outcome() for [handle] in handles}
    return Ran(work, outcomes, before, await Books.of(running.database, work))


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
async def test_the_audit_finds_each_kind_of_damage(ran: Ran) -> None:
    after, event_id = ran.after, ran.a_completed
    key = saga_id(MoneyTransfer.__name__, event_id)
    transfer = ran.work.transfers[event_id]
    source = transfer.from_account_id
    assert ran.faults() == []
    undone = [step for step in after.steps if step["state"] == "undone"]
    assert undone, "the seed must contain a transfer that is undone"

    def assert_found(faults: list[str], *texts: str) -> None:
        assert faults
        for text in texts:
            assert any(text in fault for fault in faults), faults

    assert_found(
        ran.faults(**ran.without("sagas", lambda row: row["id"] == key)), "has 0 sagas and 1 events in the outbox"
    )
    assert_found(ran.faults(**ran.without("sent", lambda row: row["saga_id"] == key)), "has 1 sagas and 0 events")
    assert_found(ran.faults(sent=[*after.sent, *after.sent]), "has 1 sagas and 2 events in the outbox")
    assert_found(ran.faults(outcomes={}), "its publisher received no outcome")
    different = json.dumps({**json.loads(ran.outcomes[event_id].model_dump_json()), "event_id": "another"})
    assert_found(
        ran.faults(outcomes={**ran.outcomes, event_id: Outcome.model_validate_json(different)}),
        "not the recorded outcome",
    )
    assert_found(ran.faults(open_sagas=1), "no saga is open: 1")
    assert_found(
        ran.faults(**ran.without("records", lambda row: row["event_id"] == event_id)), f"{event_id}: recorded []"
    )
    assert_found(ran.faults(records=[*after.records, *after.records]), f"{event_id}: recorded [(")
    assert_found(
        ran.faults(balances={**after.balances, source: after.balances[source] + 1}),
        f"{source} holds",
        "the sum of each currency is unchanged",
    )
    assert_found(ran.faults(steps=[*after.steps, {**undone[0], "state": "done"}]), "was not undone")
    assert_found(ran.faults(violations=["a sentence"]), "a sentence")
