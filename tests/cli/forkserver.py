"""Runs commands without loading the engine each time: a process that has loaded it forks one process per command.

A command has its own process, streams, folder and environment. Only the loading of Python modules is saved, which is
four fifths of a command's time. The tests of the documents start the script itself.

    python -m tests.cli.forkserver SOCKET   serves until its standard input ends
"""

import atexit
import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import NoReturn

from tests.cli.forked import NUMBER, bytes_from

_CLIENT = Path(__file__).with_name("forked.py")
_STREAMS = 3
_PRELOADED = (
    "aiosqlite",
    "asyncpg",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite.aiosqlite",
    "orchestrator.cli.main",
    "orchestrator.client",
    "orchestrator.documents.pages",
    "orchestrator.worker.recovery.sweep",
)


@cache
def forked_program() -> tuple[str, ...]:
    """The program to start instead of the script; the script and its arguments follow."""
    folder = tempfile.TemporaryDirectory(prefix="fork-", ignore_cleanup_errors=True)
    address = str(Path(folder.name) / "socket")
    server = subprocess.Popen(
        [sys.executable, "-m", __name__, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert server.stdin is not None
    assert server.stdout is not None
    output = server.stdout.readline()
    assert output == b"ready\n", f"the forkserver did not start: {output!r}"

    def stop() -> None:
        server.communicate()
        folder.cleanup()

    atexit.register(stop)
    return (sys.executable, "-I", "-S", str(_CLIENT), address)


def serve(address: str) -> None:
    """Serve until standard input is closed."""
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no handler becomes a zombie
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    print("ready", flush=True)
    # Use no threads here, because a process that forks must have only one.
    while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            _handle(connection)
        connection.close()


def _handle(connection: socket.socket) -> NoReturn:
    """Run a command in its own process and report how it ended. If the client goes away, kill the command."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(connection, NUMBER, _STREAMS)
    request = bytes_from(connection, int.from_bytes(size))
    command = os.fork()
    if command == 0:
        connection.close()
        _become(streams, **json.loads(request))
    connection.sendall(command.to_bytes(NUMBER))

    def kill_if_client_is_gone() -> None:
        if not connection.recv(1):
            os.kill(command, signal.SIGKILL)

    threading.Thread(target=kill_if_client_is_gone, daemon=True).start()
    _, status = os.waitpid(command, 0)
    connection.sendall(status.to_bytes(NUMBER))
    os._exit(0)


def _become(
    streams: list[int], script: str, arguments: list[str], environment: dict[str, str], folder: str
) -> NoReturn:
    """Turn this process into the one that Python would have started for the script."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate("rww"))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [script, *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()
    from orchestrator.cli.main import main

    main()


if __name__ == "__main__":
    serve(sys.argv[1])
