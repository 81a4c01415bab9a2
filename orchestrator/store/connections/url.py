"""Parses a database's URL, and formats it for messages without its password.

No message quotes a URL that cannot be parsed, because any part of it may be a password with an unescaped character.
"""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from orchestrator.store.connections.errors import DatabaseCondition, DatabaseUnusable
from orchestrator.store.connections.libpq_parameters import PARAMETERS, PostgresAddress, WrongParameter, address_of

Dialect = Literal["postgresql", "sqlite"]

_SCHEME = re.compile(r"(?P<backend>[A-Za-z][A-Za-z0-9]*)(\+\w+)?://(?P<rest>.*)", re.DOTALL)
_HOST = r"(?:\[[^\[\]@/?#\s]+\]|[\w.%~-]*)(?::\d*)?"
_TARGET = re.compile(
    rf"(?P<hosts>{_HOST}(?:,{_HOST})*)(?:/(?P<database>[^?@]*))?(?:\?(?P<query>[^=&]+=[^&]*(?:&[^=&]+=[^&]*)*)?)?\Z"
)
_HOST_AND_PORT = re.compile(r"(?:\[(?P<bracketed>.+)\]|(?P<plain>[^:]*))(?::(?P<port>\d*))?\Z")
_SQLITE_PARAMETERS = frozenset(
    {"cache", "cached_statements", "check_same_thread", "immutable", "isolation_level", "mode", "nolock", "timeout"}
    | {"psow", "uri", "vfs"}
)


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """A parsed database URL.

    Attributes:
        url: SQLAlchemy's form of the URL, which names the driver.
        dialect: the kind of database.
        shown: the URL in the form in which it is configured, without the password.
        postgres: how to connect to PostgreSQL; None for SQLite.
    """

    url: URL
    dialect: Dialect
    shown: str
    postgres: PostgresAddress | None = None


def parse_database_url(url: str, setting: str) -> DatabaseUrl:
    """Parse a database URL.

    Args:
        url: the configured URL, in libpq's form for PostgreSQL and in SQLAlchemy's for SQLite.
        setting: the environment variable that the URL comes from, for messages.

    Raises:
        DatabaseUnusable: the URL does not have a supported form, or has a parameter that cannot work.
    """
    parts = _SCHEME.match(url)
    backend = parts["backend"].lower() if parts else ""
    if parts is not None and backend in ("postgresql", "postgres"):
        return _parse_postgres(parts["rest"], setting)
    if backend == "sqlite":
        return _parse_sqlite(url, setting)
    if parts is not None:
        raise _misconfigured(f"{setting} names {backend}, which is not supported; use PostgreSQL or SQLite")
    raise _misconfigured(
        f"{setting} is not a database URL; the form is sqlite:///file.db or postgresql://user:password@host/name"
    )


def _parse_sqlite(url: str, setting: str) -> DatabaseUrl:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise _misconfigured(f"{setting} is not a database URL; the form for SQLite is sqlite:///file.db") from None
    if parsed.host or parsed.username:
        raise _misconfigured(
            f"{setting} names a host, but SQLite only has a file; write sqlite:///file.db with three slashes, or "
            "sqlite:////folder/file.db with four for an absolute path"
        )
    if unknown := sorted(set(parsed.query) - _SQLITE_PARAMETERS):
        raise _misconfigured(f"{setting} has the parameter {unknown[0]!r}, which SQLite does not know")
    shown = parsed.set(drivername="sqlite").render_as_string(hide_password=True)
    return DatabaseUrl(parsed.set(drivername="sqlite+aiosqlite"), "sqlite", shown)


def _parse_postgres(rest: str, setting: str) -> DatabaseUrl:
    user, password, target = _split(rest, setting)
    parameters: dict[str, str] = {}
    hosts = [_HOST_AND_PORT.match(part) for part in target["hosts"].split(",")]
    named = [(host["bracketed"] or host["plain"] or "", host["port"] or "") for host in hosts if host is not None]
    if any(host or port for host, port in named):
        parameters["host"] = ",".join(unquote(host) for host, _ in named)
        parameters["port"] = ",".join(port for _, port in named)
    if target["database"]:
        parameters["dbname"] = unquote(target["database"])
    if user:
        parameters["user"] = unquote(user)
    if password is not None:
        parameters["password"] = unquote(password)
    parameters |= _query(target["query"] or "")
    try:
        address = address_of(parameters)
    except WrongParameter as fault:
        raise _misconfigured(f"{setting} cannot be used: {fault}") from None
    return DatabaseUrl(_sqlalchemy_url(address, parameters), "postgresql", _shown(address), address)


def _split(rest: str, setting: str) -> tuple[str | None, str | None, re.Match[str]]:
    """Split into user, password and the rest; a password may contain any character if only one reading is possible."""
    readings: list[tuple[str | None, str | None, re.Match[str]]] = []
    for at in (-1, *(position for position, character in enumerate(rest) if character == "@")):
        target = _TARGET.match(rest, at + 1)
        if target is None:
            continue
        user, colon, password = rest[: max(at, 0)].partition(":")
        readings.append((user or None, password if colon else None, target))
    known = [reading for reading in readings if set(_query(reading[2]["query"] or "")) <= PARAMETERS]
    if known:
        return known[0]
    if len(readings) == 1 and rest.count("@") <= 1:
        unknown = sorted(set(_query(readings[0][2]["query"] or "")) - PARAMETERS)
        raise _misconfigured(f"{setting} has the parameter {unknown[0]!r}, which PostgreSQL does not know")
    raise _misconfigured(
        f"{setting} is not a PostgreSQL URL; the form is postgresql://user:password@host:5432/name?sslmode=require. In "
        "the user and the password, write @ as %40, : as %3A, / as %2F, ? as %3F, # as %23 and % as %25"
    )


def _query(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name == "options":  # SQLAlchemy writes a space as +, libpq as %20
            value = value.replace("+", " ")
        value = unquote(value)
        name = unquote(name)
        # SQLAlchemy writes several hosts as several parameters.
        parameters[name] = f"{parameters[name]},{value}" if name == "host" and name in parameters else value
    return parameters


def _sqlalchemy_url(address: PostgresAddress, parameters: dict[str, str]) -> URL:
    separate = {"host", "port", "dbname", "database", "user", "password"}
    query = {name: value for name, value in parameters.items() if name not in separate}
    host: str | None = None
    port: int | None = None
    if len(address.hosts) == 1 and not address.hosts[0][0].startswith("/"):
        [(host, port)] = address.hosts
    elif address.hosts:
        query["host"] = ",".join(name for name, _ in address.hosts)
        if any(number for _, number in address.hosts):
            query["port"] = ",".join(str(number or "") for _, number in address.hosts)
    return URL.create("postgresql+asyncpg", address.user, address.password, host or None, port, address.database, query)


def _shown(address: PostgresAddress) -> str:
    user = quote(address.user or "", safe="")
    login = user + (":***" if address.password else "")
    sockets = [name for name, _ in address.hosts if name.startswith("/")]
    hosts = ",".join(
        (f"[{name}]" if ":" in name else name) + (f":{port}" if port else "")
        for name, port in address.hosts
        if not name.startswith("/")
    )
    database = f"/{quote(address.database, safe='')}" if address.database else ("/" if sockets else "")
    return f"postgresql://{login}{'@' if login else ''}{hosts}{database}" + (
        f"?host={','.join(sockets)}" if sockets else ""
    )


def _misconfigured(message: str) -> DatabaseUnusable:
    return DatabaseUnusable(DatabaseCondition.MISCONFIGURED, message)
