"""How database errors are classified and explained."""

import errno
import pickle
import sqlite3
import ssl
from typing import cast

import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from orchestrator.cli.terminal.exit_codes import Exit, describe_failure
from orchestrator.store.connections.errors import DatabaseCondition, DatabaseUnusable, condition_of, explain

_SHOWN, _SETTING = "postgresql://joe:***@db/shop", "ORCHESTRATOR_DATABASE_URL"


class DriverError(Exception):
    """An error with a SQLSTATE, as asyncpg raises it."""

    def __init__(self, sqlstate: str) -> None:
        self.sqlstate = sqlstate
        super().__init__(f"PostgreSQL said {sqlstate}\nwith details")


def wrapped(cause: Exception) -> DBAPIError:
    """The error as SQLAlchemy raises it."""
    return DBAPIError("SELECT 1", None, cause)


def sqlite_error(name: str) -> sqlite3.Error:
    """An SQLite error with a result code."""
    error = sqlite3.OperationalError(name)
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("fault", "condition"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), DatabaseCondition.DOWN),
        (TimeoutError(), DatabaseCondition.DOWN),
        (wrapped(DriverError("08006")), DatabaseCondition.DOWN),
        (wrapped(DriverError("25P03")), DatabaseCondition.DOWN),
        (wrapped(DriverError("57P01")), DatabaseCondition.RESTARTING),
        (wrapped(DriverError("57P03")), DatabaseCondition.RESTARTING),
        (wrapped(DriverError("57P04")), DatabaseCondition.NO_SUCH_DATABASE),
        (wrapped(DriverError("3D000")), DatabaseCondition.NO_SUCH_DATABASE),
        (wrapped(DriverError("28P01")), DatabaseCondition.LOGIN_REFUSED),
        (wrapped(DriverError("28000")), DatabaseCondition.LOGIN_REFUSED),
        (wrapped(DriverError("53300")), DatabaseCondition.NO_CONNECTION_LEFT),
        (wrapped(DriverError("53100")), DatabaseCondition.DISK_FULL),
        (wrapped(DriverError("53200")), DatabaseCondition.OUT_OF_MEMORY),
        (wrapped(DriverError("25006")), DatabaseCondition.READ_ONLY),
        (wrapped(DriverError("42501")), DatabaseCondition.PERMISSION_DENIED),
        (wrapped(DriverError("42P01")), DatabaseCondition.TABLE_MISSING),
        (wrapped(DriverError("55P03")), DatabaseCondition.LOCKED),
        (wrapped(DriverError("57014")), DatabaseCondition.CANCELLED),
        (wrapped(DriverError("58030")), DatabaseCondition.IO_ERROR),
        (wrapped(DriverError("XX001")), DatabaseCondition.CORRUPT),
        (wrapped(DriverError("23505")), DatabaseCondition.FAILED),
        (wrapped(sqlite_error("SQLITE_FULL")), DatabaseCondition.DISK_FULL),
        (wrapped(sqlite_error("SQLITE_IOERR_SHMSIZE")), DatabaseCondition.IO_ERROR),
        (wrapped(sqlite_error("SQLITE_READONLY_DIRECTORY")), DatabaseCondition.READ_ONLY),
        (wrapped(sqlite_error("SQLITE_NOTADB")), DatabaseCondition.NOT_A_DATABASE),
        (wrapped(sqlite_error("SQLITE_BUSY_SNAPSHOT")), DatabaseCondition.LOCKED),
        (wrapped(sqlite_error("SQLITE_CORRUPT_INDEX")), DatabaseCondition.CORRUPT),
        (wrapped(sqlite_error("SQLITE_ERROR")), DatabaseCondition.FAILED),
        (OSError(errno.ENOSPC, "No space left on device"), DatabaseCondition.DISK_FULL),
        (PermissionError(errno.EACCES, "Permission denied"), DatabaseCondition.PERMISSION_DENIED),
        (OSError(errno.EROFS, "Read-only file system"), DatabaseCondition.READ_ONLY),
        (ssl.SSLCertVerificationError("self-signed certificate"), DatabaseCondition.TLS_FAILED),
        (ConnectionError('PostgreSQL server at "db" rejected SSL upgrade'), DatabaseCondition.TLS_FAILED),
        (PoolTimeout("all in use"), DatabaseCondition.POOL_EXHAUSTED),
    ],
    ids=lambda value: value.name if isinstance(value, DatabaseCondition) else "",
)
def test_an_error_is_classified_and_explained(fault: Exception, condition: DatabaseCondition) -> None:
    explained = explain(fault, _SHOWN, _SETTING)

    assert condition_of(fault) is condition
    assert ("cannot be reached" in str(explained)) is (condition is DatabaseCondition.DOWN)
    assert str(explained).startswith(f"The database at {_SHOWN} ")
    assert "\n" not in str(explained)
    shown = describe_failure(explained)
    assert shown is not None
    assert (shown.exit, shown.code) == (Exit.UNREACHABLE, condition.value)


def test_an_explained_error_keeps_its_condition_when_explained_again_or_pickled() -> None:
    full = explain(wrapped(DriverError("53100")), _SHOWN, _SETTING)
    again = cast(DatabaseUnusable, pickle.loads(pickle.dumps(full)))

    assert (again.condition, str(again)) == (DatabaseCondition.DISK_FULL, str(full))
    assert str(explain(full, _SHOWN, _SETTING)) == str(full)
