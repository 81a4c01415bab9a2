"""How repeated faults are logged, for every loop and every activity of a worker process.

A failed attempt is one line. Its traceback follows once for each kind of error (its type and where it was raised) and
minute; repeats are counted. While a database cannot be used, nothing else is logged about it than one line when that
begins, one a minute, and one when it ends: each attempt of each saga fails then, and none of them says anything new.

No line contains arguments or values, see `orchestrator.store.core.error_text`.
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
"""Seconds from one look at a database that is down to the next."""
_PATIENCE = 5.0
_AFTERMATH = 15.0
"""Seconds after an outage in which lost connections may still be noticed; that is not told again."""
_KINDS = 1_000
_SUSPECTS = 200
"""Failures whose lines are kept until it is known whether the database is down."""
_WAITING = 100_000


class AttemptFailed(ApplicationError):
    """An attempt failed, and is in the log. Its cause keeps the error for whoever looks here."""


class Tracebacks:
    """Says when a traceback is due: once for each kind of error and minute."""

    def __init__(self) -> None:
        self._kinds: dict[object, tuple[float, int]] = {}
        """When a kind's traceback was logged last, and how many like it came since."""

    def due(self, kind: object) -> tuple[bool, int]:
        """Whether the traceback of an error is to be logged, and how many of its kind came without since."""
        now = monotonic()
        last, since = self._kinds.get(kind, (float("-inf"), 0))
        if now - last < MINUTE:
            self._kinds[kind] = (last, since + 1)
            return False, since + 1
        if len(self._kinds) >= _KINDS:
            self._kinds = {one: it for one, it in self._kinds.items() if now - it[0] < MINUTE}
        if len(self._kinds) < _KINDS or kind in self._kinds:
            self._kinds[kind] = (now, 0)
        return True, since


@dataclass(slots=True)
class _Outage:
    began: float
    told: float
    fault: BaseException
    failures: int = 0
    waiting: set[str] = field(default_factory=set[str])


class FaultLog:
    """The faults of one application's databases and steps in this process.

    Args:
        databases: which it looks at when an attempt fails as if one of them were down.
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

    def knows_also(self, others: Mapping[str, Database]) -> None:
        """Look at these databases, too."""
        self._others = {**self._others, **others}

    @property
    def is_down(self) -> bool:
        """Whether one of the databases is known to be down."""
        return bool(self._outages)

    def failed(self, what: str, fault: BaseException, *, waiting: Iterable[str] = ()) -> None:
        """Log that something failed and will be tried again.

        Args:
            what: what failed, for example `account.withdraw of MoneyTransfer/event/7, attempt 3`.
            fault: the error.
            waiting: the sagas that wait because of it.
        """
        if not is_outage(fault):
            _tell(what, fault)
            return
        self._failures += 1
        if len(self._waiting) < _WAITING:
            self._waiting.update(waiting)
        if not self._outages and len(self._suspects) < _SUSPECTS:
            self._suspects.append((what, fault))
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """Look at no database any more."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching

    async def _watch(self) -> None:
        """Look at the databases until each can be used."""
        while True:
            down = await self._look()
            now = monotonic()
            for name, fault in down.items():
                self._is_down(name, fault, now)
            for name in [name for name in self._outages if name not in down]:
                self._is_back(name, now)
            if not self._outages:
                break
            self._suspects.clear()
            await asyncio.sleep(_LOOK)
        suspects, self._suspects = self._suspects, []
        self._waiting, self._failures = set(), 0
        if monotonic() - self._ended > _AFTERMATH:  # otherwise they had begun before it was back
            for what, fault in suspects:
                _tell(what, fault)

    async def _look(self) -> Mapping[str, BaseException]:
        """What each database that cannot be used fails with."""
        down: dict[str, BaseException] = {}
        for name, database in self._databases or ():
            try:
                await asyncio.wait_for(write_probe(database), _PATIENCE)
            except TimeoutError as fault:
                if database.dialect == "postgresql" or name in self._outages:  # on SQLite writers queue
                    down[name] = fault
            except Exception as fault:
                if is_outage(fault):
                    down[name] = fault
        return down

    def _is_down(self, name: str, fault: BaseException, now: float) -> None:
        if self._databases is None:
            return
        database = self._databases.named(name)
        outage = self._outages.get(name)
        if outage is None:
            self._outages[name] = _Outage(began=now, told=now, fault=fault)
            _log.warning("%s %s", database.unreachable(fault), _sagas(len(self._waiting), "wait"))
        elif now - outage.told >= MINUTE:
            outage.told = now
            cause = str(database.unreachable(fault)).partition(". ")[0]
            _log.warning("For %s: %s. %s", _lasting(now - outage.began), cause, _sagas(len(self._waiting), "wait"))

    def _is_back(self, name: str, now: float) -> None:
        outage = self._outages.pop(name)
        self._ended = now
        _log.warning(
            "The database at %s is back after %s. Meanwhile %d attempts failed. %s",
            self._databases.named(name).shown if self._databases else name,
            _lasting(now - outage.began),
            self._failures,
            _sagas(len(self._waiting), "waited"),
        )


_logs: WeakKeyDictionary[Database, FaultLog] = WeakKeyDictionary()
_tracebacks = Tracebacks()


def fault_log_of(databases: Databases | Database) -> FaultLog:
    """The fault log of a home database in this process, the same for everything that uses it."""
    known = Databases.of(databases)
    log = _logs.get(known.home)
    if log is None:
        log = _logs[known.home] = FaultLog(known)
    else:
        log.knows_also(known.others)
    return log


def is_outage(fault: BaseException) -> bool:
    """Whether an error looks as if a database could not be used at all."""
    return any(
        condition_of(leaf).is_outage
        or isinstance(leaf, InterfaceError)
        or (isinstance(leaf, DBAPIError) and leaf.connection_invalidated)
        for leaf in leaves(fault)
    )


def _tell(what: str, fault: BaseException, level: int = logging.WARNING) -> None:
    _log.log(level, "%s: %s%s", what, error_text(fault), _traceback_of(fault))


def _traceback_of(fault: BaseException) -> str:
    """The traceback where it is due, on lines of its own; otherwise nothing."""
    if isinstance(fault, ApplicationError):
        return ""  # the engine raises it itself: its message says all
    frames = fault.__traceback__
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    where = None if frames is None else (frames.tb_frame.f_code.co_filename, frames.tb_lineno)
    is_due, since = _tracebacks.due((type(fault), where))
    if not is_due:
        return ""
    again = f" ({since} more like this since its traceback was logged last)" if since else ""
    return f"{again}\n{traceback_text(fault)}"


class OneLine(logging.Filter):
    """Cuts what a library logs with a traceback for each failure to what this module would log of it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged; a traceback is removed from it, unless it is due."""
        fault = record.exc_info[1] if record.exc_info else None
        if fault is None:
            return True
        if isinstance(fault, AttemptFailed):
            return False  # logged where it was made
        if is_outage(fault) and (record.name.startswith("sqlalchemy") or any(log.is_down for log in _logs.values())):
            return False  # whoever used the connection reports the outage
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
    """Have Temporal's and SQLAlchemy's loggers log failures as this module does. Safe to repeat."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_one_line)


def _sagas(number: int, wait: str) -> str:
    return f"1 saga {wait}{'s' if wait == 'wait' else ''}." if number == 1 else f"{number} sagas {wait}."


def _lasting(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
