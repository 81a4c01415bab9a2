"""Keeps the payment service running: whenever it dies, starts it again on the same port and file."""

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.docs.markdown import ROOT
from tests.external.wire import Wire


@dataclass
class Supervisor:
    """The service's process, its address and its entries."""

    file: Path
    faults: tuple[str, ...] = ()
    port: int = 0
    deaths: int = 0
    """Number of times that the service died by itself."""
    _process: asyncio.subprocess.Process | None = None
    _watch: "asyncio.Task[None] | None" = None

    async def up(self) -> None:
        """Start the service, and again whenever it dies."""
        await self._start()
        self._watch = asyncio.create_task(self._keep())

    async def down(self) -> None:
        """End the service and do not start it again."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        if self._process is not None:
            await self._process.wait()

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """The service's entries of a kind, in order."""
        connection = sqlite3.connect(self.file)
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM entry WHERE kind = ? ORDER BY id", (kind,)).fetchall()
        connection.close()
        return [dict(row) for row in rows]

    def done(self, kind: str) -> int:
        """Number of entries of a kind that succeeded."""
        return len([entry for entry in self.entries(kind) if entry["status"] == 201])

    async def open_gate(self) -> None:
        """Let slow requests and late replies continue."""
        await Wire.ask("POST", "/gate")

    async def _start(self) -> None:
        options = ("--file", str(self.file), "--port", str(self.port), "--faults", ",".join(self.faults))
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.external.payment_service", *options, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.port = int(await self._process.stdout.readline())

    async def _keep(self) -> None:
        while True:
            assert self._process is not None
            await self._process.wait()
            self.deaths += 1
            await self._start()


@asynccontextmanager
async def payment_service(folder: Path, *faults: str) -> AsyncGenerator[Supervisor]:
    """Run the service and connect the operations of `tests.external.payments` to it."""
    service = Supervisor(folder / "payments.db", faults)
    await service.up()
    Wire.clear()
    Wire.port = service.port
    try:
        yield service
    finally:
        Wire.clear()
        await service.down()
