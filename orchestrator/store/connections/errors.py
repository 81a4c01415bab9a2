"""Decides what an error of a database or its driver means, and which message reports it. Only this module does so."""

import errno
import ssl
from enum import StrEnum
from sqlite3 import Error as SqliteError

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from orchestrator.errors import Unreachable


class DatabaseCondition(StrEnum):
    """What is wrong with a database, according to an error. The value is the stable error code."""

    DOWN = "unreachable"
    """Nothing answers, or the connection was lost."""
    RESTARTING = "database.restarting"
    """The server is shutting down or starting up."""
    TLS_FAILED = "database.tls_failed"
    """The server's certificate is not accepted, or one side requires TLS and the other does not."""
    LOGIN_REFUSED = "database.login_refused"
    NO_SUCH_DATABASE = "database.no_such_database"
    MISCONFIGURED = "database.misconfigured"
    """The address or the settings cannot work with this engine."""
    NOT_A_DATABASE = "database.not_a_database"
    CORRUPT = "database.corrupt"
    PERMISSION_DENIED = "database.permission_denied"
    READ_ONLY = "database.read_only"
    NO_CONNECTION_LEFT = "database.no_connection_left"
    """The server's connections are all in use."""
    POOL_EXHAUSTED = "database.pool_exhausted"
    """This process's own connections are all in use."""
    DISK_FULL = "database.disk_full"
    OUT_OF_MEMORY = "database.out_of_memory"
    IO_ERROR = "database.io_error"
    LOCKED = "database.locked"
    """Another transaction holds a lock for longer than this one may wait."""
    CANCELLED = "database.cancelled"
    """A statement exceeded its timeout, or was cancelled."""
    TABLE_MISSING = "database.table_missing"
    FAILED = "database.failed"
    """The database refused a statement for any other reason, such as a bug in SQL or a violated constraint."""

    @property
    def is_outage(self) -> bool:
        """Whether every transaction on this database fails, rather than only those of one saga."""
        return self in _OUTAGES


_OUTAGES = frozenset(
    {
        DatabaseCondition.DOWN,
        DatabaseCondition.RESTARTING,
        DatabaseCondition.TLS_FAILED,
        DatabaseCondition.LOGIN_REFUSED,
        DatabaseCondition.NO_SUCH_DATABASE,
        DatabaseCondition.MISCONFIGURED,
        DatabaseCondition.NOT_A_DATABASE,
        DatabaseCondition.READ_ONLY,
        DatabaseCondition.NO_CONNECTION_LEFT,
        DatabaseCondition.POOL_EXHAUSTED,
        DatabaseCondition.DISK_FULL,
        DatabaseCondition.OUT_OF_MEMORY,
        DatabaseCondition.IO_ERROR,
    }
)

_BY_SQLSTATE = {
    "08": DatabaseCondition.DOWN,
    "25006": DatabaseCondition.READ_ONLY,
    "25P03": DatabaseCondition.DOWN,  # idle_in_transaction_session_timeout ended the connection
    "28": DatabaseCondition.LOGIN_REFUSED,
    "3D000": DatabaseCondition.NO_SUCH_DATABASE,
    "3F000": DatabaseCondition.TABLE_MISSING,
    "42501": DatabaseCondition.PERMISSION_DENIED,
    "42P01": DatabaseCondition.TABLE_MISSING,
    "53": DatabaseCondition.OUT_OF_MEMORY,
    "53100": DatabaseCondition.DISK_FULL,
    "53300": DatabaseCondition.NO_CONNECTION_LEFT,
    "55P03": DatabaseCondition.LOCKED,
    "57014": DatabaseCondition.CANCELLED,
    "57P": DatabaseCondition.RESTARTING,
    "57P04": DatabaseCondition.NO_SUCH_DATABASE,
    "57P05": DatabaseCondition.DOWN,  # idle_session_timeout ended the connection
    "58": DatabaseCondition.IO_ERROR,
    "XX001": DatabaseCondition.CORRUPT,
    "XX002": DatabaseCondition.CORRUPT,
}
"""Conditions by SQLSTATE or a prefix of it; the longest matching prefix applies."""

_BY_SQLITE_NAME = {
    "SQLITE_BUSY": DatabaseCondition.LOCKED,
    "SQLITE_CANTOPEN": DatabaseCondition.DOWN,
    "SQLITE_CORRUPT": DatabaseCondition.CORRUPT,
    "SQLITE_FULL": DatabaseCondition.DISK_FULL,
    "SQLITE_IOERR": DatabaseCondition.IO_ERROR,
    "SQLITE_LOCKED": DatabaseCondition.LOCKED,
    "SQLITE_NOMEM": DatabaseCondition.OUT_OF_MEMORY,
    "SQLITE_NOTADB": DatabaseCondition.NOT_A_DATABASE,
    "SQLITE_PERM": DatabaseCondition.PERMISSION_DENIED,
    "SQLITE_READONLY": DatabaseCondition.READ_ONLY,
}
"""Conditions by primary result code; the names of extended codes begin with it."""

_BY_ERRNO = {
    errno.EACCES: DatabaseCondition.PERMISSION_DENIED,
    errno.EPERM: DatabaseCondition.PERMISSION_DENIED,
    errno.EROFS: DatabaseCondition.READ_ONLY,
    errno.ENOSPC: DatabaseCondition.DISK_FULL,
    errno.EDQUOT: DatabaseCondition.DISK_FULL,
    errno.EIO: DatabaseCondition.IO_ERROR,
}

_SENTENCES = {
    DatabaseCondition.DOWN: "cannot be reached ({cause}). Start it, or set {setting} to the right one.",
    DatabaseCondition.RESTARTING: (
        "accepts no work at the moment ({cause}). Wait until it runs again; accepted events are not lost."
    ),
    DatabaseCondition.TLS_FAILED: (
        "was reached, but no connection with the configured encryption could be made ({cause}). Correct sslmode, "
        "sslrootcert, sslcert and sslkey in {setting}, or the server's certificate."
    ),
    DatabaseCondition.LOGIN_REFUSED: (
        "runs, but refuses the login ({cause}). Correct the user and the password in {setting}, or pg_hba.conf on the "
        "server."
    ),
    DatabaseCondition.NO_SUCH_DATABASE: (
        "does not exist, though its server runs ({cause}). Create it, or set {setting} to the right one."
    ),
    DatabaseCondition.MISCONFIGURED: "cannot be used ({cause}). Correct it, or set {setting} to another one.",
    DatabaseCondition.NOT_A_DATABASE: (
        "is a file, but not a SQLite database ({cause}). Set {setting} to the right file."
    ),
    DatabaseCondition.CORRUPT: (
        "is damaged ({cause}). Stop the workers, then restore a backup or repair it before anything else is written."
    ),
    DatabaseCondition.PERMISSION_DENIED: (
        "refuses permission ({cause}). Grant this user the missing privilege, or set {setting} to a user who has it."
    ),
    DatabaseCondition.READ_ONLY: (
        "can be read but not written ({cause}). Make it writable, or set {setting} to the primary server."
    ),
    DatabaseCondition.NO_CONNECTION_LEFT: (
        "runs, but has no connection left ({cause}). Close other programs' connections, lower ORCHESTRATOR_POOL_SIZE "
        "of the workers, or raise the server's max_connections."
    ),
    DatabaseCondition.POOL_EXHAUSTED: (
        "was not used, because all connections of this process are in use ({cause}). Look for statements that wait, "
        "or raise ORCHESTRATOR_POOL_SIZE."
    ),
    DatabaseCondition.DISK_FULL: (
        "runs, but its disk is full ({cause}). Free some space; sagas then continue by themselves."
    ),
    DatabaseCondition.OUT_OF_MEMORY: "runs, but is short of a resource ({cause}). Increase it, or try again later.",
    DatabaseCondition.IO_ERROR: (
        "cannot read or write its files ({cause}). Check the disk, which may be full, failing or no longer mounted."
    ),
    DatabaseCondition.LOCKED: (
        "was reached, but another transaction holds a lock that is needed ({cause}). Try again when it has ended."
    ),
    DatabaseCondition.CANCELLED: (
        "was reached, but a statement was cancelled ({cause}). Look for what slows it down, or raise statement_timeout."
    ),
    DatabaseCondition.TABLE_MISSING: (
        "lacks tables that the engine needs ({cause}). Start a worker, which creates them, and check the search_path."
    ),
    DatabaseCondition.FAILED: "was reached, but refused a statement ({cause}).",
}


class DatabaseUnusable(Unreachable):
    """A database could not do what was requested.

    Attributes:
        condition: what is wrong with the database.
    """

    def __init__(self, condition: DatabaseCondition, message: str) -> None:
        self.condition = condition
        super().__init__(message)

    def __reduce__(self) -> tuple[type["DatabaseUnusable"], tuple[DatabaseCondition, str]]:
        return (type(self), (self.condition, str(self)))


class NoConnectionLeft(PoolTimeout, Unreachable):
    """All connections of the pool were in use for longer than a transaction waits for one."""


def condition_of(fault: BaseException) -> DatabaseCondition:
    """Return what is wrong with the database, according to an error of SQLAlchemy, a driver or the operating system."""
    if isinstance(fault, DatabaseUnusable):
        return fault.condition
    if isinstance(fault, PoolTimeout):
        return DatabaseCondition.POOL_EXHAUSTED
    if isinstance(fault, Unreachable):
        return DatabaseCondition.DOWN
    state = sqlstate(fault)
    if state is not None:
        prefixes = [state[:length] for length in (5, 3, 2) if state[:length] in _BY_SQLSTATE]
        return _BY_SQLSTATE[prefixes[0]] if prefixes else DatabaseCondition.FAILED
    cause = _cause_of(fault)
    if isinstance(cause, SqliteError):
        name = getattr(cause, "sqlite_errorname", None) or ""
        matching = (condition for prefix, condition in _BY_SQLITE_NAME.items() if name.startswith(prefix))
        return next(matching, DatabaseCondition.FAILED)
    if isinstance(cause, ssl.SSLError) or "SSL upgrade" in str(cause):
        return DatabaseCondition.TLS_FAILED
    if isinstance(cause, OSError):
        return _BY_ERRNO.get(cause.errno or 0, DatabaseCondition.DOWN)
    if isinstance(fault, DBAPIError) and fault.connection_invalidated:
        return DatabaseCondition.DOWN
    return DatabaseCondition.FAILED


def explain(fault: BaseException, shown: str, setting: str) -> Unreachable:
    """Convert an error into one whose message says what is wrong with the database and what to do.

    Args:
        fault: an error of SQLAlchemy, a driver or the operating system.
        shown: the database's address, without a password.
        setting: the environment variable that the address comes from.
    """
    condition = condition_of(fault)
    if isinstance(fault, Unreachable):
        return DatabaseUnusable(condition, str(fault))
    cause = _cause_of(fault)
    first_line = next((line for line in str(cause).splitlines() if line), "") or type(cause).__name__
    sentence = _SENTENCES[condition].format(cause=first_line, setting=setting)
    return DatabaseUnusable(condition, f"The database at {shown} {sentence}")


def sqlstate(fault: BaseException) -> str | None:
    """Return PostgreSQL's five-character code of an error, or None if it has none."""
    state: str | None = getattr(_cause_of(fault), "sqlstate", None)
    return state


def _cause_of(fault: BaseException) -> BaseException:
    """Return the driver's own error if SQLAlchemy has wrapped it, otherwise the error itself."""
    return fault.orig if isinstance(fault, DBAPIError) and fault.orig is not None else fault
