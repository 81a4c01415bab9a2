"""A payment service in its own process that remembers idempotency keys and can be made to misbehave.

It keeps its entries in a SQLite file, so that it can be killed and started again. A repeated key gets the first
answer. Faults are set with `--faults` or in a request's card: `visa charges:die refunds:lose`. Each fault occurs once
per key, between the commit and the reply:

- `lose` drops the connection; `lose-always` does so every time
- `die` kills the process
- `late` replies only after the gate has been opened (`POST /gate`)
- `slow` begins only after the gate has been opened, as if the request were still in flight

A card that begins with `declined` is refused.
"""

import argparse
import json
import os
import signal
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

KINDS = ("charges", "refunds", "parcels", "messages")
_TABLES = """
CREATE TABLE IF NOT EXISTS entry (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL, card TEXT NOT NULL, amount INTEGER NOT NULL,
    charge INTEGER, status INTEGER NOT NULL, requests INTEGER NOT NULL, UNIQUE (kind, key)
);
CREATE TABLE IF NOT EXISTS struck (fault TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (fault, key));
"""


class Book:
    """The service's entries, on disk."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.lock = threading.RLock()
        """Serializes requests, so that a process that dies after a commit dies before the next commit."""
        with self._open() as connection:
            connection.executescript(_TABLES)
        connection.close()

    def write(self, kind: str, key: str, body: dict[str, Any]) -> dict[str, Any]:
        """Write an entry, or return the existing entry of this key."""
        card = str(body["card"])
        declined = kind == "charges" and card.startswith("declined")
        with self.lock, self._open() as connection:
            connection.execute(
                "INSERT INTO entry (kind, key, card, amount, charge, status, requests) VALUES (?, ?, ?, ?, ?, ?, 1) "
                "ON CONFLICT (kind, key) DO UPDATE SET requests = requests + 1",
                (kind, key, card, body["amount"], body.get("charge"), 402 if declined else 201),
            )
        connection.close()
        entry = self.find(kind, key)
        assert entry is not None
        return entry

    def find(self, kind: str, key: str) -> dict[str, Any] | None:
        """The entry of a key, or None."""
        connection = self._open()
        row = connection.execute("SELECT * FROM entry WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        connection.close()
        return None if row is None else dict(row)

    def strikes(self, fault: str, key: str) -> bool:
        """Whether a fault occurs now: once per key, recorded on disk before it occurs."""
        with self.lock, self._open() as connection:
            struck = connection.execute("INSERT OR IGNORE INTO struck (fault, key) VALUES (?, ?)", (fault, key))
        connection.close()
        return struck.rowcount == 1

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file)
        connection.row_factory = sqlite3.Row
        return connection


class Service(ThreadingHTTPServer):
    """The HTTP server with its entries, its faults and its gate."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, file: Path, port: int, faults: frozenset[str]) -> None:
        self.book = Book(file)
        self.faults = faults
        self.gate = threading.Event()
        super().__init__(("127.0.0.1", port), Desk)


class Desk(BaseHTTPRequestHandler):
    """Handles one request."""

    server: Service  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        """Write an entry, once per key, and let faults occur."""
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))) or b"{}")
        kind, key = self.path.strip("/"), self.headers.get("Idempotency-Key")
        if kind == "gate":
            self.server.gate.set()
            return self._answer(200, {})
        if kind not in KINDS or key is None:
            return self._answer(400, {"error": "unknown path, or no Idempotency-Key"})
        if self._has_fault(kind, key, "slow", body):
            self.server.gate.wait()
        with self.server.book.lock:
            done = self.server.book.write(kind, key, body)
            if self._has_fault(kind, key, "die", body):
                os.kill(os.getpid(), signal.SIGKILL)
        if self._has_fault(kind, key, "late", body):
            self.server.gate.wait()
        if not self._has_fault(kind, key, "lose", body):
            self._answer(done["status"], done)
        return None

    def do_GET(self) -> None:
        """Return the entry of a key."""
        url = urlsplit(self.path)
        entry = self.server.book.find(url.path.strip("/"), parse_qs(url.query)["key"][0])
        self._answer(404 if entry is None else 200, entry or {})

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def _has_fault(self, kind: str, key: str, fault: str, body: dict[str, Any]) -> bool:
        faults = self.server.faults | set(str(body.get("card", "")).split()[1:])
        if f"{kind}:{fault}-always" in faults:
            return True
        return f"{kind}:{fault}" in faults and self.server.book.strikes(f"{kind}:{fault}", key)

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def main() -> None:
    """Serve until killed; print the port as the first line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--faults", default="", help="faults separated by commas, for example charges:die,refunds:lose")
    options = parser.parse_args()
    service = Service(options.file, options.port, frozenset(filter(None, options.faults.split(","))))
    print(service.server_address[1], flush=True)
    service.serve_forever()


if __name__ == "__main__":
    main()
