"""Stands for a command that the forkserver runs: lends it its streams, passes signals on, and ends as it ends.

Started as a file, by a Python without site packages: all that it costs is a hundredth of a second.
"""

import json
import os
import signal
import socket
import sys

NUMBER = 8
"""Bytes of a number."""


def main(address: str, script: str, *arguments: str) -> int:
    """Have a command run; its exit code."""
    asked = {"script": script, "arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
    content = json.dumps(asked).encode()
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
    """The next number; ends this process if the other end has left."""
    return int.from_bytes(bytes_from(connection, NUMBER))


def bytes_from(connection: socket.socket, size: int) -> bytes:
    """The next bytes; ends this process if the other end has left."""
    content = b""
    while len(content) < size:
        received = connection.recv(size - len(content))
        if not received:
            sys.exit("the other end has left")
        content += received
    return content


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
