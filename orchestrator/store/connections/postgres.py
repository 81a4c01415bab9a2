"""Connects to PostgreSQL as libpq does: tries one host after another, with the configured TLS and session kind."""

import socket
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import sample
from typing import Any
from urllib.parse import urlencode

from asyncpg.exceptions import (  # type: ignore[import-untyped] # pyright: ignore[reportMissingTypeStubs]
    CannotConnectNowError,
    ClientConfigurationError,
    ConnectionDoesNotExistError,
    TargetServerAttributeNotMatched,
)

from orchestrator.store.connections.errors import DatabaseCondition, DatabaseUnusable, condition_of
from orchestrator.store.connections.libpq_parameters import PostgresAddress
from orchestrator.store.connections.pooler import PoolerAwareConnect

_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_NEXT_HOST = (OSError, TargetServerAttributeNotMatched, CannotConnectNowError, ConnectionDoesNotExistError)
"""Errors after which the next host is tried, as in libpq; a refused login is not one of them."""
_TCP_OPTIONS = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}


class PostgresConnector:
    """Opens connections to one database; SQLAlchemy calls it instead of `asyncpg.connect`.

    Args:
        address: the database's address.
        shown: the address without its password, for messages.
        settings: the engine's own session settings, which those in the address override.
    """

    def __init__(self, address: PostgresAddress, shown: str, settings: Mapping[str, str]) -> None:
        self._address = address
        self._shown = shown
        self._settings = {**settings, **address.settings}
        self._connect = PoolerAwareConnect()

    async def __call__(self, **options: Any) -> Any:
        """Connect to the first host that accepts; `options` are passed to `asyncpg.connect`.

        Raises:
            DatabaseUnusable: the address names a file that cannot be read, or contradicts itself.
        """
        address = self._address
        options = {**self._connect_options(), **options}
        hosts: Sequence[tuple[str | None, int | None]] = address.hosts or [(None, None)]
        if address.shuffles_hosts:
            hosts = sample(hosts, len(hosts))
        sessions = ("standby", "any") if address.session == "prefer-standby" else (address.session,)
        faults: dict[str, Exception] = {}
        for session in sessions:
            for host, port in hosts:
                try:
                    connection = await self._connect(host=host, port=port, target_session_attrs=session, **options)
                except ClientConfigurationError as fault:
                    raise self._misconfigured(str(fault)) from fault
                except _NEXT_HOST as fault:
                    faults[_host_name(host, port)] = fault
                else:
                    self._set_socket_options(connection)
                    return connection
        raise self._combined(faults)

    def _connect_options(self) -> dict[str, Any]:
        address = self._address
        parameters = dict(address.asyncpg)
        for name in _FILES:
            if name in parameters and parameters[name] != "system":
                self._check_file(name, parameters[name])
        options: dict[str, Any] = {
            "user": address.user,
            "password": address.password,
            "database": address.database,
            "timeout": address.timeout,
            "server_settings": self._settings,
        }
        if parameters.get("sslrootcert") == "system":
            options["ssl"] = self._system_context(parameters)
        if parameters:
            # asyncpg accepts these only in a DSN. The DSN contains no user and no host, so it parses neither.
            options["dsn"] = f"postgresql://?{urlencode(parameters)}"
        if "statement_cache_size" in address.caches:
            options["statement_cache_size"] = address.caches["statement_cache_size"]
        return options

    def _check_file(self, name: str, path: str) -> None:
        try:
            with Path(path).open("rb"):
                pass
        except OSError as fault:
            raise self._misconfigured(f"{name} names {path}, which cannot be read: {fault.strerror}") from fault

    @staticmethod
    def _system_context(parameters: dict[str, str]) -> ssl.SSLContext:
        """Create a context with the system's certificate authorities; asyncpg does not know `sslrootcert=system`."""
        context = ssl.create_default_context()
        if "sslcert" in parameters:
            context.load_cert_chain(
                parameters["sslcert"], parameters.get("sslkey"), lambda: parameters.get("sslpassword", "")
            )
        if parameters.get("sslnegotiation") == "direct":
            context.set_alpn_protocols(["postgresql"])
        for name in ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword"):
            parameters.pop(name, None)
        return context

    def _set_socket_options(self, connection: Any) -> None:
        options = self._address.socket_options
        transport = getattr(connection, "_transport", None)
        peer: socket.socket | None = transport.get_extra_info("socket") if options and transport is not None else None
        if peer is None or peer.family not in (socket.AF_INET, socket.AF_INET6):
            return
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, options.get("keepalives", 1))
        for name, constant in _TCP_OPTIONS.items():
            if options.get(name, 0) > 0 and hasattr(socket, constant):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, constant), options[name])

    def _combined(self, faults: Mapping[str, Exception]) -> Exception:
        """Return one error for all hosts: the last one's error if all failed in the same way, otherwise a summary."""
        last = list(faults.values())[-1]
        unmatched = [fault for fault in faults.values() if isinstance(fault, TargetServerAttributeNotMatched)]
        conditions = {condition_of(fault) for fault in faults.values()}
        is_common = len(conditions) == 1 and DatabaseCondition.DOWN not in conditions
        if not unmatched and (len(faults) == 1 or is_common):
            return last
        mismatch = f"its session is not {self._address.session}"
        summary = "; ".join(
            f"{host}: {mismatch if isinstance(fault, TargetServerAttributeNotMatched) else _first_line(fault)}"
            for host, fault in faults.items()
        )
        return ConnectionError(summary)

    def _misconfigured(self, cause: str) -> DatabaseUnusable:
        return DatabaseUnusable(
            DatabaseCondition.MISCONFIGURED, f"The database at {self._shown} cannot be connected to: {cause}."
        )


def _host_name(host: str | None, port: int | None) -> str:
    if host is None:
        return "the default host"
    return f"{host}:{port}" if port else host


def _first_line(fault: Exception) -> str:
    return next((line for line in str(fault).splitlines() if line), "") or type(fault).__name__
