"""Translates libpq's parameters in a PostgreSQL URL for asyncpg, and refuses those that cannot work."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

CONNECT_TIMEOUT = 10.0
"""Seconds to connect to one host, unless `connect_timeout` sets another limit."""
_DEFAULT_PORT = 5432
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SESSION_ATTRIBUTES = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
_TO_ASYNCPG = frozenset(
    {
        "gsslib", "krbsrvname", "passfile", "service", "ssl_max_protocol_version", "ssl_min_protocol_version",
        "sslcert", "sslcrl", "sslkey", "sslmode", "sslnegotiation", "sslpassword", "sslrootcert",
    }
)  # fmt: skip
"""Parameters that asyncpg understands exactly as libpq does."""
_SUPPORTED_VALUES: Final[Mapping[str, frozenset[str]]] = {
    "channel_binding": frozenset({"disable", "prefer"}),
    "client_encoding": frozenset({"auto", "utf8", "utf-8", "unicode"}),
    "gssdelegation": frozenset({"0"}),
    "gssencmode": frozenset({"disable", "prefer"}),
    "replication": frozenset({"0", "false", "off", "no"}),
    "sslcertmode": frozenset({"allow"}),
    "sslcompression": frozenset({"0"}),
    "sslsni": frozenset({"1"}),
}
"""For each of these parameters, the values that ask for what asyncpg does anyway; it supports no other value."""
_IMPOSSIBLE = frozenset({"hostaddr", "require_auth", "requirepeer", "sslcrldir", "sslkeylogfile"})
_KEEPALIVES = ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")
_CACHES = ("prepared_statement_cache_size", "statement_cache_size")
_READ_HERE = frozenset(
    {
        "application_name", "connect_timeout", "database", "dbname", "fallback_application_name", "host",
        "load_balance_hosts", "options", "password", "port", "requiressl", "ssl", "target_session_attrs", "user",
    }
)  # fmt: skip
PARAMETERS: Final = _TO_ASYNCPG | _READ_HERE | _IMPOSSIBLE | frozenset((*_SUPPORTED_VALUES, *_KEEPALIVES, *_CACHES))
"""Every known parameter, whether it can work or not."""
_SETTING = re.compile(r"(?:-c\s*|--)(?P<name>[A-Za-z_][\w.-]*)=(?P<value>.*)\Z", re.DOTALL)


class WrongParameter(ValueError):
    """A parameter cannot work. The message says why, and never contains a password."""


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """How to connect to PostgreSQL.

    Attributes:
        hosts: pairs of host (or folder of a socket) and port, in the order in which they are tried; empty for asyncpg's
            defaults.
        user: the user; None for asyncpg's default.
        password: the password; None if there is none or if it comes from a file.
        database: the name of the database; None for asyncpg's default.
        asyncpg: the parameters that asyncpg reads itself.
        settings: session settings, which override the engine's own.
        timeout: the seconds to connect to one host; None for no limit.
        session: the value of `target_session_attrs`.
        shuffles_hosts: whether hosts are tried in random order.
        socket_options: the TCP keepalive options, under libpq's names.
        caches: the sizes of the caches of prepared statements, by parameter.
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
        """Return a representation that leaves out the password."""
        return f"PostgresAddress(hosts={self.hosts!r}, user={self.user!r}, database={self.database!r})"

    @property
    def patience(self) -> float | None:
        """The seconds that connecting may take over all hosts; None for no limit."""
        rounds = 2 if self.session == "prefer-standby" else 1
        return None if self.timeout is None else self.timeout * max(1, len(self.hosts)) * rounds


def address_of(parameters: Mapping[str, str]) -> PostgresAddress:
    """Convert the parameters of a URL, under libpq's names, to an address.

    Raises:
        WrongParameter: a parameter cannot work.
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
            raise WrongParameter(f"the driver (asyncpg) does not support the parameter {name}; leave it out")
        if name in _SUPPORTED_VALUES and value and value.lower() not in _SUPPORTED_VALUES[name]:
            possible = " or ".join(sorted(_SUPPORTED_VALUES[name]))
            raise WrongParameter(
                f"the driver (asyncpg) does not support {name}={value}; leave it out, or write {name}={possible}"
            )


def _asyncpg_of(parameters: Mapping[str, str]) -> Mapping[str, str]:
    supported = {name: value for name, value in parameters.items() if name in _TO_ASYNCPG and value}
    if "sslmode" not in supported:
        # `ssl` is the name in asyncpg and JDBC, `requiressl` an old name in libpq.
        ssl = parameters.get("ssl", "").lower()
        mode = {"true": "require", "1": "require", "on": "require", "false": "disable", "0": "", "off": ""}.get(
            ssl, ssl
        )
        if mode or parameters.get("requiressl") == "1":
            supported["sslmode"] = mode or "require"
    if "sslmode" in supported:
        _one_of(supported, "sslmode", _SSL_MODES, "prefer")
    if "sslnegotiation" in supported:
        _one_of(supported, "sslnegotiation", ("postgres", "direct"), "postgres")
    if supported.get("sslrootcert") == "system" and supported.setdefault("sslmode", "verify-full") != "verify-full":
        raise WrongParameter("sslrootcert=system needs sslmode=verify-full, because anybody can get a certificate")
    return supported


def _hosts_of(hosts: str, ports: str) -> tuple[tuple[str, int | None], ...]:
    names, numbers = hosts.split(","), ports.split(",")
    if len(names) == 1 and ":" in names[0] and names[0].count(":") == 1 and not ports:
        names[0], _, numbers[0] = names[0].partition(":")  # the form in which SQLAlchemy writes it
    elif not ports.strip(",") and all(name.count(":") == 1 for name in names):
        names, numbers = [name.partition(":")[0] for name in names], [name.partition(":")[2] for name in names]
    if len(numbers) == 1:
        numbers *= len(names)
    if len(numbers) != len(names):
        raise WrongParameter(f"there are {len(names)} hosts and {len(numbers)} ports; give one port or one per host")
    if any(number and not (number.isascii() and number.isdigit() and 0 < int(number) < 65_536) for number in numbers):
        raise WrongParameter("a port must be a number from 1 to 65535")
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
        raise WrongParameter(f"{name} must be a whole number") from None


def _one_of(parameters: Mapping[str, str], name: str, possible: tuple[str, ...], default: str) -> str:
    value = parameters.get(name) or default
    if value not in possible:
        raise WrongParameter(f"{name} must be one of {', '.join(possible)}")
    return value


def _settings_of(options: str) -> dict[str, str]:
    """Parse `options` into session settings, which are sent one by one, because those override the text itself."""
    settings: dict[str, str] = {}
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|[^\s\\])+", options, re.DOTALL)]
    complete: Callable[[str], str] | None = None
    for word in words:
        if word == "-c":
            complete = "-c{}".format
            continue
        setting = _SETTING.match(complete(word) if complete else word)
        complete = None
        if setting is None:
            raise WrongParameter("options must be a list of session settings, such as options=-c%20search_path=shop")
        settings[setting["name"].replace("-", "_")] = setting["value"]
    if complete is not None:
        raise WrongParameter("options ends with -c; a session setting, such as search_path=shop, must follow it")
    return settings
