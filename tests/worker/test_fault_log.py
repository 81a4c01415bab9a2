"""How repeated faults are logged: number of lines, tracebacks and bytes, with real databases that reject writes."""

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
    """Reset the log, so that no traceback has been logged yet."""
    monkeypatch.setattr(fault_log, "_tracebacks", Tracebacks())
    monkeypatch.setattr(fault_log, "_LOOK", 0.05)


@pytest.fixture
async def stocked(database: Database) -> AsyncGenerator[Database]:
    """A database with a thousand coins; its fault log is closed afterwards."""
    async with database.transaction() as connection:
        await cast.stock(connection, a=1_000, b=0)
    yield database
    await fault_log_of(database).close()


def make_read_only(database: Database) -> Callable[[], None]:
    """Make every connection read-only; returns a function that makes them writable again."""
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


def make_full(database: Database) -> Callable[[], None]:
    """Limit a SQLite database's pages; returns a function that removes the limit.

    PostgreSQL has no such setting, so its connections become read-only.
    """
    if database.dialect == "postgresql":
        return make_read_only(database)
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
    """Use up the remaining pages."""
    try:
        for number in range(10_000):
            async with database.transaction() as connection:
                await connection.execute(insert(box).values(name=f"{number}" * 200, coins=1))
    except Exception as fault:
        assert is_outage(fault)  # noqa: PT017


async def run_failing_attempts(database: Database, log: FaultLog, catalog: Catalog = CATALOG) -> int:
    """Let each saga attempt a step a few times; returns the number of failed attempts."""
    failed = 0

    async def attempt_repeatedly(number: int) -> None:
        nonlocal failed
        for _ in range(ROUNDS):
            try:
                await run_step(database, catalog, first_step(f"saga-{number}"))
            except Exception as fault:
                failed += 1
                log.failed(f"cast.take of saga-{number}", fault, waiting=[f"saga-{number}"])
            await asyncio.sleep(0.02)

    await asyncio.gather(*(attempt_repeatedly(number) for number in range(SAGAS)))
    return failed


@pytest.mark.parametrize("break_database", [make_read_only, make_full])
async def test_an_outage_of_writes_is_logged_when_it_begins_and_when_it_ends(
    stocked: Database, break_database: Callable[[Database], Callable[[], None]], caplog: pytest.LogCaptureFixture
) -> None:
    log = fault_log_of(stocked)
    heal = break_database(stocked)
    if break_database is make_full and stocked.dialect == "sqlite":
        await fill(stocked)

    failed = await run_failing_attempts(stocked, log)
    heal()

    async def is_back() -> bool:
        return "is back after" in caplog.text

    await eventually(is_back, "the database is back", within=8)
    lines = [record.getMessage() for record in caplog.records]
    assert failed > SAGAS  # on a full disk, small rows may still fit
    assert len(lines) == 2
    assert re.search(r"Meanwhile \d+ attempts failed. \d+ sagas waited\.", lines[1])
    assert len(caplog.text) < 1_000
    assert "Traceback" not in caplog.text


async def test_an_error_that_only_looks_like_an_outage_is_logged_like_any_other(
    stocked: Database, caplog: pytest.LogCaptureFixture
) -> None:
    log = fault_log_of(stocked)

    log.failed("a.call of Saga/event/1", ConnectionRefusedError("the shop is closed"), waiting=["Saga/event/1"])

    async def is_logged() -> bool:
        return bool(caplog.records)

    await eventually(is_logged, "the error is logged")
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("a.call of Saga/event/1: ConnectionRefusedError: the shop is closed")


async def test_a_repeated_failure_is_one_line_each_and_its_traceback_is_logged_once(
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


async def test_a_traceback_is_logged_again_after_a_minute_with_the_number_of_repeats(
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


def test_the_number_of_remembered_error_kinds_is_bounded() -> None:
    tracebacks = Tracebacks()

    for number in range(5_000):
        tracebacks.due(number)

    assert len(tracebacks._kinds) <= 1_000  # pyright: ignore[reportPrivateUsage]


def logged(fault: BaseException) -> logging.LogRecord | None:
    """A library's log record with a traceback after filtering, or None if it is dropped."""
    try:
        raise fault
    except BaseException as raised:
        info: Any = (type(raised), raised, raised.__traceback__)
        record = logging.LogRecord("temporalio.activity", logging.WARNING, "", 1, "Completing %s", ("it",), info)
    return record if OneLine().filter(record) else None


def test_a_librarys_repeated_traceback_becomes_one_line() -> None:
    first, second = logged(ValueError("boom")), logged(ValueError("boom"))

    assert first is not None
    assert second is not None
    assert first.getMessage().startswith("Completing it: ValueError: boom\nTraceback")
    assert second.getMessage() == "Completing it: ValueError: boom"
    assert not second.exc_info


def test_temporal_does_not_log_a_failed_attempt_again() -> None:
    assert logged(AttemptFailed("boom")) is None


def test_the_engines_own_failures_are_logged_without_a_traceback() -> None:
    record = logged(ApplicationError("given up", type="DeadlineExceeded"))

    assert record is not None
    assert "Traceback" not in record.getMessage()


async def test_a_full_disk_inside_a_savepoint_is_an_outage_and_not_the_authors_mistake(stocked: Database) -> None:
    make_full(stocked)
    if stocked.dialect == "sqlite":
        await fill(stocked)

    async def writes_in_a_savepoint(tx: Transaction) -> None:
        async with tx.begin_nested():
            await tx.exec(insert(box).values([{"name": f"{number}" * 15, "coins": 1} for number in range(2_000)]))

    Script.before["take"] = writes_in_a_savepoint

    with pytest.raises(DBAPIError) as raised:
        await run_step(stocked, CATALOG, first_step())

    assert is_outage(raised.value)
