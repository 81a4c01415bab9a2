"""How repeated faults are logged: lines, tracebacks and bytes, with real databases that cannot be written."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from sqlalchemy import event, insert
from sqlalchemy.exc import DBAPIError
from temporalio.exceptions import ApplicationError

from orchestrator import Transaction
from orchestrator.definition.catalog import Catalog
from orchestrator.store.core.database import Database
from orchestrator.store.saga.fence import run_step
from orchestrator.worker import fault_log
from orchestrator.worker.fault_log import AttemptFailed, FaultLog, OneLine, Tracebacks, fault_log_of, is_outage
from tests import cast
from tests.cast import Script, box
from tests.house import CATALOG, eventually
from tests.store.test_fence import first_step

SAGAS = 50
ROUNDS = 6


@pytest.fixture(autouse=True)
def fresh_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback was logged yet."""
    monkeypatch.setattr(fault_log, "_tracebacks", Tracebacks())
    monkeypatch.setattr(fault_log, "_LOOK", 0.05)


@pytest.fixture
async def stocked(database: Database) -> AsyncGenerator[Database]:
    """A thousand coins, and a log that looks no more afterwards."""
    async with database.transaction() as connection:
        await cast.stock(connection, a=1_000, b=0)
    yield database
    await fault_log_of(database).close()


def cannot_be_written(database: Database) -> Callable[[], None]:
    """Make every connection read-only; returns what makes them writable again."""
    is_read_only = True

    def checked_out(connection: Any, *_: Any) -> None:
        cursor = connection.cursor()
        if database.dialect == "sqlite":
            cursor.execute(f"PRAGMA query_only={'ON' if is_read_only else 'OFF'}")
        else:
            cursor.execute(f"SET default_transaction_read_only={'on' if is_read_only else 'off'}")
            connection.commit()
        cursor.close()

    event.listen(database.engine.sync_engine, "checkout", checked_out)

    def heal() -> None:
        nonlocal is_read_only
        is_read_only = False

    return heal


def is_full(database: Database) -> Callable[[], None]:
    """Give a SQLite database no further page; returns what gives it more. PostgreSQL has no such setting."""
    if database.dialect == "postgresql":
        return cannot_be_written(database)
    pages = 1

    def checked_out(connection: Any, *_: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA max_page_count={pages}")
        cursor.close()

    event.listen(database.engine.sync_engine, "checkout", checked_out)

    def heal() -> None:
        nonlocal pages
        pages = 1_000_000

    return heal


async def fill(database: Database) -> None:
    """Use up what is left of its pages."""
    try:
        for number in range(10_000):
            async with database.transaction() as connection:
                await connection.execute(insert(box).values(name=f"{number}" * 200, coins=1))
    except Exception as fault:
        assert is_outage(fault)  # noqa: PT017


async def attempts_fail(database: Database, log: FaultLog, catalog: Catalog = CATALOG) -> int:
    """Each saga tries a step a few times; returns how many attempts failed."""
    failed = 0

    async def one(number: int) -> None:
        nonlocal failed
        for _ in range(ROUNDS):
            try:
                await run_step(database, catalog, first_step(f"saga-{number}"))
            except Exception as fault:
                failed += 1
                log.failed(f"cast.take of saga-{number}", fault, waiting=[f"saga-{number}"])
            await asyncio.sleep(0.02)

    await asyncio.gather(*(one(number) for number in range(SAGAS)))
    return failed


@pytest.mark.parametrize("broken", [cannot_be_written, is_full])
async def test_a_database_that_cannot_be_written_is_told_when_it_begins_and_when_it_ends(
    stocked: Database, broken: Callable[[Database], Callable[[], None]], caplog: pytest.LogCaptureFixture
) -> None:
    log = fault_log_of(stocked)
    heal = broken(stocked)
    if broken is is_full and stocked.dialect == "sqlite":
        await fill(stocked)

    failed = await attempts_fail(stocked, log)
    heal()

    async def is_back() -> bool:
        await asyncio.sleep(0.02)
        return "is back after" in caplog.text

    await eventually(is_back, "the database is back", within=8)
    lines = [record.getMessage() for record in caplog.records]
    assert failed > SAGAS  # where a disk is full, small rows may still fit
    assert len(lines) == 2
    assert re.search(r"Meanwhile \d+ attempts failed. \d+ sagas waited\.", lines[1])
    assert len(caplog.text) < 1_000
    assert "Traceback" not in caplog.text


async def test_an_error_that_only_looks_like_an_outage_is_a_line_like_any_other(
    stocked: Database, caplog: pytest.LogCaptureFixture
) -> None:
    log = fault_log_of(stocked)

    log.failed("a.call of Saga/event/1", ConnectionRefusedError("the shop is closed"), waiting=["Saga/event/1"])

    async def is_told() -> bool:
        await asyncio.sleep(0.01)
        return bool(caplog.records)

    await eventually(is_told, "it is told")
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("a.call of Saga/event/1: ConnectionRefusedError: the shop is closed")


async def test_a_failure_is_one_line_and_its_traceback_comes_once(
    stocked: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def boom(secret: str) -> Exception:
        try:
            raise ValueError("boom")
        except ValueError as fault:
            return fault

    for number in range(100):
        fault_log_of(stocked).failed(f"saga {number}", boom("4711"))

    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 100
    assert sum("Traceback" in message for message in messages) == 1
    assert all(message.count("\n") == 0 for message in messages[1:])
    assert "4711" not in caplog.text


async def test_a_minute_later_the_traceback_comes_again_with_how_many_came_between(
    stocked: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(fault_log, "monotonic", lambda: now)
    fault = ValueError("boom")
    for _ in range(10):
        fault_log_of(stocked).failed("saga", fault)
    now = 61.0

    fault_log_of(stocked).failed("saga", fault)

    last = caplog.records[-1].getMessage()
    assert "(9 more like this since its traceback was logged last)" in last
    assert "ValueError: boom" in last


async def test_errors_of_different_kinds_each_have_their_traceback(
    stocked: Database, caplog: pytest.LogCaptureFixture
) -> None:
    for kind in (ValueError, KeyError, TypeError) * 10:
        try:
            raise kind("boom")
        except Exception as fault:
            fault_log_of(stocked).failed("saga", fault)

    assert caplog.text.count("Traceback") == 3


def test_kinds_are_not_kept_without_end() -> None:
    tracebacks = Tracebacks()

    for number in range(5_000):
        tracebacks.due(number)

    assert len(tracebacks._kinds) <= 1_000  # pyright: ignore[reportPrivateUsage]


def logged(fault: BaseException) -> logging.LogRecord | None:
    """What is left of a library's record with a traceback."""
    try:
        raise fault
    except BaseException as raised:
        info: Any = (type(raised), raised, raised.__traceback__)
        record = logging.LogRecord("temporalio.activity", logging.WARNING, "", 1, "Completing %s", ("it",), info)
    return record if OneLine().filter(record) else None


def test_what_a_library_logs_with_a_traceback_becomes_one_line() -> None:
    first, second = logged(ValueError("boom")), logged(ValueError("boom"))

    assert first is not None
    assert second is not None
    assert first.getMessage().startswith("Completing it: ValueError: boom\nTraceback")
    assert second.getMessage() == "Completing it: ValueError: boom"
    assert not second.exc_info


def test_a_failed_attempt_is_not_logged_a_second_time_by_temporal() -> None:
    assert logged(AttemptFailed("boom")) is None


def test_a_failure_of_the_engines_own_needs_no_traceback() -> None:
    record = logged(ApplicationError("given up", type="DeadlineExceeded"))

    assert record is not None
    assert "Traceback" not in record.getMessage()


async def test_a_full_disk_inside_a_savepoint_is_an_outage_and_no_mistake_of_the_author(stocked: Database) -> None:
    is_full(stocked)
    if stocked.dialect == "sqlite":
        await fill(stocked)

    async def writes_in_a_savepoint(tx: Transaction) -> None:
        async with tx.begin_nested():
            await tx.exec(insert(box).values([{"name": f"{number}" * 15, "coins": 1} for number in range(2_000)]))

    Script.before["take"] = writes_in_a_savepoint

    with pytest.raises(DBAPIError) as raised:
        await run_step(stocked, CATALOG, first_step())

    assert is_outage(raised.value)
