"""Prevents an operation's changes to its database session from affecting the engine's statements and later steps.

Connections are pooled, and a commit does not end a session. So a `search_path`, a role, a temporary table, a
session-level advisory lock or a SQLite pragma would apply to the next saga that gets the connection. A temporary table
with the name of a real table would even swallow that saga's effect without an error. So such a connection is closed
after its transaction. Changes that a database function makes to the session by itself are not detected.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

COMMENTS = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|;)*"
"""Matches what may come before a statement's first word."""
_TOUCHED = "orchestrator_session_touched"
_REDIRECTED = "orchestrator_session_redirected"
_LEAVES_STATE = "orchestrator_session_leaves_state"
_FLAGS = re.IGNORECASE | re.DOTALL
_SETS = re.compile(rf"\A{COMMENTS}(?:set|reset)\b|\bset_config\s*\(", _FLAGS)
_SETS_FOR_TRANSACTION = re.compile(
    rf"\A{COMMENTS}set\s+(?:local|transaction|constraints)\b|\bset_config\s*\([^()]*,\s*true\s*\)", _FLAGS
)
_REDIRECTS = re.compile(r"\b(?:search_path|schema|role|authorization)\b", re.IGNORECASE)
_LEAVES = {
    "postgresql": re.compile(
        rf"\A{COMMENTS}(?:listen|load|prepare|deallocate|discard|do)\b"
        r"|\bpg_(?:try_)?advisory_lock(?:_shared)?\s*\("
        r"|\bwith\s+hold\b"
        r"|\bpg_temp\b"
        r"|\b(?:create|into)\s+(?:or\s+replace\s+)?(?:local\s+|global\s+)?temp(?:orary)?\b(?!.*\bon\s+commit\s+drop\b)",
        _FLAGS,
    ),
    "sqlite": re.compile(rf"\A{COMMENTS}(?:pragma|attach|detach)\b|\bcreate\s+temp(?:orary)?\b", _FLAGS),
}
_PING = text("SELECT 1")


def note_statement(connection: Connection, statement: str, parameters: Any) -> None:
    """Record whether an author's statement is about to change the session."""
    leaves, sets = _kind_of(statement, connection.dialect.name)
    if not leaves and not sets:
        return
    info = connection.info
    info[_TOUCHED] = True
    if leaves or (sets and not _is_for_transaction(statement, parameters)):
        info[_LEAVES_STATE] = True
    if sets and (_REDIRECTS.search(statement) or any(map(_REDIRECTS.search, _texts(parameters)))):
        info[_REDIRECTED] = True


def is_touched(connection: Connection) -> bool:
    """Whether a statement has changed the session since the last call of this function."""
    return bool(connection.info.pop(_TOUCHED, False))


def leaves_state(connection: Connection) -> bool:
    """Whether the session must not be used for another transaction."""
    return _LEAVES_STATE in connection.info


async def restore_names(connection: AsyncConnection) -> None:
    """Restore `search_path` and role if the author's code has changed them.

    The step's record is written afterwards in the same transaction, and must go into the engine's own tables.
    """
    driven = connection.sync_connection
    if driven is None or driven.invalidated or not driven.info.pop(_REDIRECTED, False):
        return
    driver: Any = (await connection.get_raw_connection()).driver_connection
    # Behind a pooler the engine's settings belong to the transaction and not to the session, so `RESET` loses them.
    settings: str = getattr(driver, "transaction_settings", "")
    try:
        await driver.execute(f"RESET SESSION AUTHORIZATION; RESET ROLE; RESET search_path;{settings}")
    except Exception:
        await connection.execute(_PING)  # fails too, and SQLAlchemy translates the error
        raise


@lru_cache(maxsize=512)
def _kind_of(statement: str, dialect: str) -> tuple[bool, bool]:
    """Return whether a statement leaves something in the session, and whether it changes a setting."""
    return (
        _LEAVES[dialect].search(statement) is not None,
        dialect == "postgresql" and _SETS.search(statement) is not None,
    )


def _is_for_transaction(statement: str, parameters: Any) -> bool:
    if _SETS_FOR_TRANSACTION.search(statement):
        return True
    # If the third argument of `set_config` is a parameter: true means that the setting ends with the transaction.
    return "set_config" in statement.lower() and any(value is True for value in _values(parameters))


def _texts(parameters: Any) -> Iterable[str]:
    return (value for value in _values(parameters) if isinstance(value, str))


def _values(parameters: Any) -> list[Any]:
    """Return the values of a statement's parameters, which drivers get as a list, a tuple or a dict."""
    values: Any = parameters.values() if hasattr(parameters, "values") else parameters or ()
    return list(values)
