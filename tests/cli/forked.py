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
        command = _number(server)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(command, number))
        code = os.waitstatus_to_exitcode(_number(server))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _number(server: socket.socket) -> int:
    content = b""
    while len(content) < NUMBER:
        received = server.recv(NUMBER - len(content))
        if not received:
            sys.exit("the forkserver left")
        content += received
    return int.from_bytes(content)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
