"""Finds free ports on this machine."""

import socket

HOST = "127.0.0.1"
"""The address of the embedded mode's servers, which can be reached only from this machine."""

_NEIGHBOURS = 20
"""How many ports after the wanted one are tried before any other, because they are easy to remember."""


def free_port(wanted: int, *, but_not: int = 0) -> int:
    """Return the wanted port if it is free, otherwise one of the next, otherwise any. 0 means any free port."""
    if wanted:
        for port in range(wanted, min(wanted + _NEIGHBOURS, 65_536)):
            if port != but_not and not is_listening(port) and _can_bind(port):
                return port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        # Servers set this option as well, so a port with only closed connections in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def is_listening(port: int) -> bool:
    """Return whether a server accepts connections on the port."""
    # Trying to bind is not enough, because some systems allow it although another process listens on all addresses.
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0
