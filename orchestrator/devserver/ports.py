"""Ports of this machine: which are free, and which one to take instead of a taken one."""

import socket

HOST = "127.0.0.1"
"""Servers of the embedded mode are for this machine only."""

_NEIGHBOURS = 20
"""Ports after a taken one that are tried before any free one is taken: they are easier to remember."""


def free_port(wanted: int, *, but_not: int = 0) -> int:
    """The wanted port if it is free, else one of the next, else any; 0 asks for any."""
    if wanted:
        for port in range(wanted, min(wanted + _NEIGHBOURS, 65_536)):
            if port != but_not and not is_listening(port) and _can_bind(port):
                return port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do it: a port whose last connections are fading is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def is_listening(port: int) -> bool:
    """Whether somebody answers there."""
    # Asked as well, because on some systems one may bind under somebody who listens on all addresses.
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0
