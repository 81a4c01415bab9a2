"""Keeps what an operation changes in its database session from reaching the engine's statements and later steps.

Connections are pooled, and a commit does not end a session: a `search_path`, a role, a temporary table, a session's
advisory lock or a SQLite pragma would apply to whichever saga gets the connection next. A temporary table that has the
name of a table takes that saga's effect without an error. So such a connection is closed after its transaction.
Nothing here sees what a database function does to the session by itself.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

COMMENTS = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|;)*"
"""What may come before a statement's first word."""
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
    """Remember what an author's statement is about to change in the session."""
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
    """Whether a statement has changed a setting or left something in the session since this was last asked."""
    return bool(connection.info.pop(_TOUCHED, False))


def leaves_state(connection: Connection) -> bool:
    """Whether the session must not be used for another transaction."""
    return _LEAVES_STATE in connection.info


async def restore_names(connection: AsyncConnection) -> None:
    """Make names mean again what they mean to the engine, if the author's code has set a `search_path` or a role.

    The step's record is written after it, in the same transaction.
    """
    driven = connection.sync_connection
    if driven is None or driven.invalidated or not driven.info.pop(_REDIRECTED, False):
        return
    driver: Any = (await connection.get_raw_connection()).driver_connection
    # Through a pooler the engine's settings are the transaction's, not the session's: `RESET` does not know them.
    settings: str = getattr(driver, "transaction_settings", "")
    try:
        await driver.execute(f"RESET SESSION AUTHORIZATION; RESET ROLE; RESET search_path;{settings}")
    except Exception:
        await connection.execute(_PING)  # fails likewise, and SQLAlchemy translates the error
        raise


@lru_cache(maxsize=512)
def _kind_of(statement: str, dialect: str) -> tuple[bool, bool]:
    """Whether a statement leaves something in the session, and whether it sets something."""
    return (
        _LEAVES[dialect].search(statement) is not None,
        dialect == "postgresql" and _SETS.search(statement) is not None,
    )


def _is_for_transaction(statement: str, parameters: Any) -> bool:
    if _SETS_FOR_TRANSACTION.search(statement):
        return True
    # `set_config`'s third argument, where it is a parameter: whether the setting ends with the transaction.
    return "set_config" in statement.lower() and any(value is True for value in _values(parameters))


def _texts(parameters: Any) -> Iterable[str]:
    return (value for value in _values(parameters) if isinstance(value, str))


def _values(parameters: Any) -> list[Any]:
    """What a driver is given: a list or tuple by position, a dict by name."""
    given: Any = parameters.values() if hasattr(parameters, "values") else parameters or ()
    return list(given)
