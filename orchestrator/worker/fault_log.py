"""Logs the errors of every loop and activity of a worker process without repeating itself.

A failed attempt is one line. Its traceback follows at most once a minute for each kind of error (its type and where it
was raised); repeats are counted. While a database cannot be used, every attempt of every saga fails for the same
reason. So an outage is logged as one line when it begins, one line per minute, and one line when it ends.

No line contains arguments or values (see `orchestrator.store.core.error_text`).
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from weakref import WeakKeyDictionary, ref

from sqlalchemy.exc import DBAPIError, InterfaceError
from temporalio.exceptions import ApplicationError

from orchestrator.protocol.exception_groups import leaves
from orchestrator.store.connections.errors import condition_of
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.error_text import error_text, traceback_text
from orchestrator.store.write_probe import write_probe

_log = logging.getLogger(__name__)

MINUTE = 60.0
_LOOK = 1.0
"""Seconds between two probes of a database that is down."""
_PATIENCE = 5.0
"""How many seconds a probe may take."""
_AFTERMATH = 15.0
"""How long after an outage errors of lost connections are still not logged, in seconds."""
_KINDS = 1_000
"""The maximum number of error kinds to remember."""
_SUSPECTS = 200
"""The maximum number of log lines to hold back until it is known whether the database is down."""
_WAITING = 100_000
"""The maximum number of waiting sagas to count."""


class AttemptFailed(ApplicationError):
    """An attempt failed and has been logged. Its `__cause__` is the error."""


class Tracebacks:
    """Decides when a traceback is logged, which happens at most once a minute for each kind of error."""

    def __init__(self) -> None:
        self._kinds: dict[object, tuple[float, int]] = {}
        """When the traceback of each kind of error was last logged, and how many such errors have occurred since."""

    def due(self, kind: object) -> tuple[bool, int]:
        """Return whether a traceback is due, and how many errors of its kind have occurred since the last traceback."""
        now = monotonic()
        last, since = self._kinds.get(kind, (float("-inf"), 0))
        if now - last < MINUTE:
            self._kinds[kind] = (last, since + 1)
            return False, since + 1
        if len(self._kinds) >= _KINDS:
            self._kinds = {known: entry for known, entry in self._kinds.items() if now - entry[0] < MINUTE}
        if len(self._kinds) < _KINDS or kind in self._kinds:
            self._kinds[kind] = (now, 0)
        return True, since


@dataclass(slots=True)
class _Outage:
    began: float
    logged: float
    fault: BaseException
    failures: int = 0
    waiting: set[str] = field(default_factory=set[str])


class FaultLog:
    """Logs the errors of one application's databases and steps in this process.

    Args:
        databases: the databases to probe when an attempt fails with an error that looks like an outage.
    """

    def __init__(self, databases: Databases) -> None:
        self._home = ref(databases.home)
        self._others = databases.others
        self._suspects: list[tuple[str, BaseException]] = []
        self._waiting: set[str] = set()
        self._failures = 0
        self._outages: dict[str, _Outage] = {}
        self._ended = float("-inf")
        self._watching: asyncio.Task[None] | None = None

    @property
    def _databases(self) -> Databases | None:
        home = self._home()
        return None if home is None else Databases(home, self._others)

    def add_databases(self, others: Mapping[str, Database]) -> None:
        """Probe these databases as well."""
        self._others = {**self._others, **others}

    @property
    def is_down(self) -> bool:
        """Whether one of the databases is known to be down."""
        return bool(self._outages)

    def failed(self, what: str, fault: BaseException, *, waiting: Iterable[str] = ()) -> None:
        """Log that something failed. If a database may be down, the line is held back until that is known.

        Args:
            what: what failed, for example `account.withdraw of MoneyTransfer/event/7, attempt 3, failed`.
            fault: the error.
            waiting: ids of the sagas that wait because of the failure.
        """
        if not is_outage(fault):
            _log_failure(what, fault)
            return
        self._failures += 1
        if len(self._waiting) < _WAITING:
            self._waiting.update(waiting)
        if not self._outages and len(self._suspects) < _SUSPECTS:
            self._suspects.append((what, fault))
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """Stop probing the databases."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching

    async def _watch(self) -> None:
        """Probe the databases until each can be used."""
        while True:
            down = await self._probe()
            now = monotonic()
            for name, fault in down.items():
                self._log_outage(name, fault, now)
            for name in [name for name in self._outages if name not in down]:
                self._log_recovery(name, now)
            if not self._outages:
                break
            self._suspects.clear()
            await asyncio.sleep(_LOOK)
        suspects, self._suspects = self._suspects, []
        self._waiting, self._failures = set(), 0
        if monotonic() - self._ended > _AFTERMATH:  # otherwise the attempts began during the outage
            for what, fault in suspects:
                _log_failure(what, fault)

    async def _probe(self) -> Mapping[str, BaseException]:
        """Return the error of each database that cannot be used, keyed by the database's name."""
        down: dict[str, BaseException] = {}
        for name, database in self._databases or ():
            try:
                await asyncio.wait_for(write_probe(database), _PATIENCE)
            except TimeoutError as fault:
                if database.dialect == "postgresql" or name in self._outages:  # on SQLite a writer may only be queuing
                    down[name] = fault
            except Exception as fault:
                if is_outage(fault):
                    down[name] = fault
        return down

    def _log_outage(self, name: str, fault: BaseException, now: float) -> None:
        if self._databases is None:
            return
        database = self._databases.named(name)
        outage = self._outages.get(name)
        if outage is None:
            self._outages[name] = _Outage(began=now, logged=now, fault=fault)
            _log.warning("%s %s", database.unreachable(fault), _count_sagas(len(self._waiting), "wait"))
        elif now - outage.logged >= MINUTE:
            outage.logged = now
            cause = str(database.unreachable(fault)).partition(". ")[0]
            duration = _format_duration(now - outage.began)
            _log.warning("For %s: %s. %s", duration, cause, _count_sagas(len(self._waiting), "wait"))

    def _log_recovery(self, name: str, now: float) -> None:
        outage = self._outages.pop(name)
        self._ended = now
        _log.warning(
            "The database at %s is back after %s. Meanwhile %d attempts failed. %s",
            self._databases.named(name).shown if self._databases else name,
            _format_duration(now - outage.began),
            self._failures,
            _count_sagas(len(self._waiting), "waited"),
        )


_logs: WeakKeyDictionary[Database, FaultLog] = WeakKeyDictionary()
_tracebacks = Tracebacks()


def fault_log_of(databases: Databases | Database) -> FaultLog:
    """Return the fault log of a home database. Each process has one, shared by everything that uses the database."""
    databases = Databases.of(databases)
    log = _logs.get(databases.home)
    if log is None:
        log = _logs[databases.home] = FaultLog(databases)
    else:
        log.add_databases(databases.others)
    return log


def is_outage(fault: BaseException) -> bool:
    """Return whether an error looks as if the database itself were unusable, whatever a saga does."""
    return any(
        condition_of(leaf).is_outage
        or isinstance(leaf, InterfaceError)
        or (isinstance(leaf, DBAPIError) and leaf.connection_invalidated)
        for leaf in leaves(fault)
    )


def _log_failure(what: str, fault: BaseException, level: int = logging.WARNING) -> None:
    _log.log(level, "%s: %s%s", what, error_text(fault), _traceback_of(fault))


def _traceback_of(fault: BaseException) -> str:
    """Return the traceback on lines after the first if it is due, otherwise an empty string."""
    if isinstance(fault, ApplicationError):
        return ""  # the engine itself raised it, and its message is complete
    frames = fault.__traceback__
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    where = None if frames is None else (frames.tb_frame.f_code.co_filename, frames.tb_lineno)
    is_due, since = _tracebacks.due((type(fault), where))
    if not is_due:
        return ""
    repeats = f" ({since} more like this since its traceback was logged last)" if since else ""
    return f"{repeats}\n{traceback_text(fault)}"


class OneLine(logging.Filter):
    """A logging filter that shortens a library's tracebacks to what this module would log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record. Its traceback is removed unless one is due."""
        fault = record.exc_info[1] if record.exc_info else None
        if fault is None:
            return True
        if isinstance(fault, AttemptFailed):
            return False  # already logged where it was raised
        if is_outage(fault) and (record.name.startswith("sqlalchemy") or any(log.is_down for log in _logs.values())):
            return False  # the code that used the connection reports the outage
        record.msg = f"{record.getMessage()}: {error_text(fault)}{_traceback_of(fault)}"
        record.args = ()
        record.exc_info = record.exc_text = None
        return True


_LOGGERS = (
    "temporalio.activity",
    "temporalio.worker._activity",
    "temporalio.worker._workflow",
    "temporalio.worker._workflow_instance",
    "sqlalchemy.pool",
    "sqlalchemy.pool.impl.AsyncAdaptedQueuePool",
)
_one_line = OneLine()


def shorten_library_logs() -> None:
    """Make Temporal's and SQLAlchemy's loggers log failures as this module does. Calling it twice is harmless."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_one_line)


def _count_sagas(number: int, verb: str) -> str:
    return f"1 saga {verb}{'s' if verb == 'wait' else ''}." if number == 1 else f"{number} sagas {verb}."


def _format_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
