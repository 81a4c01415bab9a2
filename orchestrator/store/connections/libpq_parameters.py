"""The parameters of a PostgreSQL URL: what each of libpq's means for asyncpg, and which of them cannot work."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

CONNECT_TIMEOUT = 10.0
"""Seconds for one host, unless `connect_timeout` says otherwise."""
_DEFAULT_PORT = 5432
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SESSION_ATTRIBUTES = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
_TO_ASYNCPG = frozenset(
    {
        "gsslib", "krbsrvname", "passfile", "service", "ssl_max_protocol_version", "ssl_min_protocol_version",
        "sslcert", "sslcrl", "sslkey", "sslmode", "sslnegotiation", "sslpassword", "sslrootcert",
    }
)  # fmt: skip
"""asyncpg understands these as libpq does."""
_HARMLESS: Final[Mapping[str, frozenset[str]]] = {
    "channel_binding": frozenset({"disable", "prefer"}),
    "client_encoding": frozenset({"auto", "utf8", "utf-8", "unicode"}),
    "gssdelegation": frozenset({"0"}),
    "gssencmode": frozenset({"disable", "prefer"}),
    "replication": frozenset({"0", "false", "off", "no"}),
    "sslcertmode": frozenset({"allow"}),
    "sslcompression": frozenset({"0"}),
    "sslsni": frozenset({"1"}),
}
"""Values that ask for nothing which asyncpg does not do anyway; with any other value the parameter cannot work."""
_IMPOSSIBLE = frozenset({"hostaddr", "require_auth", "requirepeer", "sslcrldir", "sslkeylogfile"})
_KEEPALIVES = ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")
_CACHES = ("prepared_statement_cache_size", "statement_cache_size")
_OURS = frozenset(
    {
        "application_name", "connect_timeout", "database", "dbname", "fallback_application_name", "host",
        "load_balance_hosts", "options", "password", "port", "requiressl", "ssl", "target_session_attrs", "user",
    }
)  # fmt: skip
PARAMETERS: Final = _TO_ASYNCPG | _OURS | _IMPOSSIBLE | frozenset((*_HARMLESS, *_KEEPALIVES, *_CACHES))
"""Every parameter that is known, possible or not."""
_SETTING = re.compile(r"(?:-c\s*|--)(?P<name>[A-Za-z_][\w.-]*)=(?P<value>.*)\Z", re.DOTALL)


class WrongParameter(ValueError):
    """A parameter that cannot work; the message says why and never contains a password."""


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """How to connect to PostgreSQL.

    Attributes:
        hosts: host or folder of a socket, and port, in the order in which they are tried; none: asyncpg's defaults.
        user: None for asyncpg's default.
        password: None if there is none, or it comes from a file.
        database: None for asyncpg's default.
        asyncpg: parameters that asyncpg reads itself.
        settings: session settings; they come before the engine's own.
        timeout: seconds for one host; None: no limit.
        session: what `target_session_attrs` asks for.
        shuffles_hosts: whether hosts are tried in random order.
        socket_options: TCP keepalives, by libpq's names.
        caches: sizes of the caches of prepared statements, by their names.
    """

    hosts: tuple[tuple[str, int | None], ...]
    user: str | None
    password: str | None
    database: str | None
    asyncpg: Mapping[str, str]
    settings: Mapping[str, str]
    timeout: float | None
    session: str
    shuffles_hosts: bool
    socket_options: Mapping[str, int]
    caches: Mapping[str, int]

    def __repr__(self) -> str:
        """Without a password."""
        return f"PostgresAddress(hosts={self.hosts!r}, user={self.user!r}, database={self.database!r})"

    @property
    def patience(self) -> float | None:
        """Seconds that a connection may take in all, over every host; None: no limit."""
        rounds = 2 if self.session == "prefer-standby" else 1
        return None if self.timeout is None else self.timeout * max(1, len(self.hosts)) * rounds


def address_of(parameters: Mapping[str, str]) -> PostgresAddress:
    """Read the parameters of a URL, by libpq's names.

    Raises:
        WrongParameter: one of them cannot work.
    """
    _refuse_impossible(parameters)
    settings = _settings_of(parameters.get("options", ""))
    name = parameters.get("application_name") or parameters.get("fallback_application_name")
    return PostgresAddress(
        hosts=_hosts_of(parameters.get("host", ""), parameters.get("port", "")),
        user=parameters.get("user") or None,
        password=parameters.get("password"),
        database=parameters.get("dbname") or parameters.get("database") or None,
        asyncpg=_asyncpg_of(parameters),
        settings=settings | ({"application_name": name} if name else {}),
        timeout=_timeout_of(parameters),
        session=_one_of(parameters, "target_session_attrs", _SESSION_ATTRIBUTES, "any"),
        shuffles_hosts=_one_of(parameters, "load_balance_hosts", ("disable", "random"), "disable") == "random",
        socket_options={key: _number(parameters, key) for key in _KEEPALIVES if parameters.get(key)},
        caches={key: _number(parameters, key) for key in _CACHES if parameters.get(key)},
    )


def _refuse_impossible(parameters: Mapping[str, str]) -> None:
    for name, value in parameters.items():
        if name in _IMPOSSIBLE and value:
            raise WrongParameter(f"the driver (asyncpg) cannot do what the parameter {name} asks for; leave it out")
        if name in _HARMLESS and value and value.lower() not in _HARMLESS[name]:
            possible = " or ".join(sorted(_HARMLESS[name]))
            raise WrongParameter(
                f"the driver (asyncpg) cannot do {name}={value}; leave it out, or write {name}={possible}"
            )


def _asyncpg_of(parameters: Mapping[str, str]) -> Mapping[str, str]:
    found = {name: value for name, value in parameters.items() if name in _TO_ASYNCPG and value}
    if "sslmode" not in found:
        # `ssl` is asyncpg's and JDBC's name, `requiressl` an old one of libpq's.
        ssl = parameters.get("ssl", "").lower()
        mode = {"true": "require", "1": "require", "on": "require", "false": "disable", "0": "", "off": ""}.get(
            ssl, ssl
        )
        if mode or parameters.get("requiressl") == "1":
            found["sslmode"] = mode or "require"
    if "sslmode" in found:
        _one_of(found, "sslmode", _SSL_MODES, "prefer")
    if "sslnegotiation" in found:
        _one_of(found, "sslnegotiation", ("postgres", "direct"), "postgres")
    if found.get("sslrootcert") == "system" and found.setdefault("sslmode", "verify-full") != "verify-full":
        raise WrongParameter("sslrootcert=system needs sslmode=verify-full, because anyone can get such a certificate")
    return found


def _hosts_of(hosts: str, ports: str) -> tuple[tuple[str, int | None], ...]:
    names, numbers = hosts.split(","), ports.split(",")
    if len(names) == 1 and ":" in names[0] and names[0].count(":") == 1 and not ports:
        names[0], _, numbers[0] = names[0].partition(":")  # as SQLAlchemy writes it
    elif not ports.strip(",") and all(name.count(":") == 1 for name in names):
        names, numbers = [name.partition(":")[0] for name in names], [name.partition(":")[2] for name in names]
    if len(numbers) == 1:
        numbers *= len(names)
    if len(numbers) != len(names):
        raise WrongParameter(f"there are {len(names)} hosts and {len(numbers)} ports; give one port, or one for each")
    if any(number and not (number.isascii() and number.isdigit() and 0 < int(number) < 65_536) for number in numbers):
        raise WrongParameter("a port is a number from 1 to 65535")
    if not any(names) and not any(numbers):
        return ()
    return tuple(
        (name.strip("[]") or "localhost", int(number) if number else _default_port(names))
        for name, number in zip(names, numbers, strict=True)
    )


def _default_port(names: list[str]) -> int | None:
    return _DEFAULT_PORT if len(names) > 1 else None


def _timeout_of(parameters: Mapping[str, str]) -> float | None:
    if not parameters.get("connect_timeout"):
        return CONNECT_TIMEOUT
    seconds = _number(parameters, "connect_timeout")
    return float(seconds) if seconds > 0 else None


def _number(parameters: Mapping[str, str], name: str) -> int:
    try:
        return int(parameters[name])
    except ValueError:
        raise WrongParameter(f"{name} is a whole number") from None


def _one_of(parameters: Mapping[str, str], name: str, possible: tuple[str, ...], default: str) -> str:
    value = parameters.get(name) or default
    if value not in possible:
        raise WrongParameter(f"{name} is one of {', '.join(possible)}")
    return value


def _settings_of(options: str) -> dict[str, str]:
    """Session settings of `options`; sent one by one, because the server lets those come before the text itself."""
    settings: dict[str, str] = {}
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|[^\s\\])+", options, re.DOTALL)]
    waiting: Callable[[str], str] | None = None
    for word in words:
        if word == "-c":
            waiting = "-c{}".format
            continue
        setting = _SETTING.match(waiting(word) if waiting else word)
        waiting = None
        if setting is None:
            raise WrongParameter("options is a list of session settings, such as options=-c%20search_path=shop")
        settings[setting["name"].replace("-", "_")] = setting["value"]
    if waiting is not None:
        raise WrongParameter("options ends with -c; a session setting, such as search_path=shop, belongs after it")
    return settings
