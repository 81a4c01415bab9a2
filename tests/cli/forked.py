"""Represents a command that the forkserver runs: passes on its streams, signals and exit code.

It is started as a file by a Python without site packages, which takes only a hundredth of a second.
"""

import json
import os
import signal
import socket
import sys

NUMBER = 8
"""The size of a number in bytes."""


def main(address: str, script: str, *arguments: str) -> int:
    """Have the forkserver run a command, and return its exit code."""
    request = {"script": script, "arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
    content = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [len(content).to_bytes(NUMBER)], [0, 1, 2])
        server.sendall(content)
        command = number_from(server)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(command, number))
        code = os.waitstatus_to_exitcode(number_from(server))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def number_from(connection: socket.socket) -> int:
    """Receive a number; end this process if the connection is closed."""
    return int.from_bytes(bytes_from(connection, NUMBER))


def bytes_from(connection: socket.socket, size: int) -> bytes:
    """Receive some bytes; end this process if the connection is closed."""
    content = b""
    while len(content) < size:
        received = connection.recv(size - len(content))
        if not received:
            sys.exit("the forkserver has closed the connection")
        content += received
    return content


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
