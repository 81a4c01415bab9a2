"""The live view: a line for each saga that starts, ends or gets stuck, and the lines that workers log.

It polls the home database. While the database cannot be read, the sagas continue and nothing is printed.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from orchestrator.cli.embedded.show import Show
from orchestrator.cli.embedded.stack import Stack
from orchestrator.errors import Unreachable
from orchestrator.protocol.commands import Phase
from orchestrator.store.core.database import Database
from orchestrator.store.queries.sagas import Position, SagaView, list_sagas, sagas_by_id
from orchestrator.worker.process.manager import LAST_READY_LINE, READY_LINE

_INTERVAL = 0.3
_PAGE = 100
_OVERLAP_SAGAS = 1_000
"""How many ended sagas are remembered, so that none of them is printed twice."""


class LiveView:
    """Prints what happens on a stack.

    Args:
        stack: the running stack.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._logs: dict[Path, WorkerLog] = {}

    async def run(self) -> None:
        """Print until cancelled."""
        show = self._stack.show
        database = Database(self._stack.settings.resolved_database_url, pool_size=1)
        sagas = SagaLines(database, show)
        try:
            while True:
                for worker in self._stack.workers:
                    log = self._logs.setdefault(worker.log, WorkerLog(worker.log))
                    for line in log.new_lines():
                        show.quiet(f"worker {worker.pid}: {line}")
                with suppress(Unreachable):  # no worker has created the tables yet, or the database is unavailable
                    await sagas.print_changes()
                await asyncio.sleep(_INTERVAL)
        finally:
            await database.close()


class SagaLines:
    """Prints a line for each saga that has started, ended or become stuck since the last look.

    Args:
        database: the home database.
        show: prints the lines.
    """

    def __init__(self, database: Database, show: Show) -> None:
        self._database = database
        self._show = show
        self._open: dict[UUID, SagaView] = {}
        self._ended: dict[UUID, None] = {}
        self._is_first_look = True

    async def print_changes(self) -> None:
        """Read the database once, and print what has changed. The first call prints nothing.

        Raises:
            Unreachable: the database cannot be read.
        """
        new = await self._new_sagas()
        known = await sagas_by_id(self._database, list(self._open)) if self._open else ()
        for saga in reversed(new):
            if not self._is_first_look:
                self._show.state(saga.created_at, "started", f"{saga.orchestrator}  {saga.event_id}")
        for saga in sorted([*known, *new], key=lambda saga: saga.progressed_at):
            self._print_change(saga)
        self._is_first_look = False
        while len(self._ended) > _OVERLAP_SAGAS:
            del self._ended[next(iter(self._ended))]

    async def _new_sagas(self) -> list[SagaView]:
        """Return the sagas that have not been seen before, the newest first."""
        found: list[SagaView] = []
        after: Position | None = None
        while True:
            page = await list_sagas(self._database, limit=_PAGE, after=after)
            new = [saga for saga in page if saga.id not in self._open and saga.id not in self._ended]
            found += new
            if self._is_first_look or len(page) < _PAGE or len(new) < len(page):
                return found
            after = Position(page[-1].created_at, page[-1].id)

    def _print_change(self, saga: SagaView) -> None:
        before = self._open.pop(saga.id, None)
        name = f"{saga.orchestrator}  {saga.event_id}"
        if saga.phase.is_final:
            self._ended[saga.id] = None
            if not self._is_first_look:
                ended_at = saga.finished_at or datetime.now(UTC)
                self._show.state(ended_at, saga.phase.value, f"{name}{_outcome(saga, ended_at)}")
            return
        self._open[saga.id] = saga
        if saga.is_stuck and not (before is not None and before.is_stuck) and not self._is_first_look:
            since = saga.stuck_since or datetime.now(UTC)
            self._show.state(since, "stuck", f"{name}  step {saga.stuck_step}: {saga.stuck_error}")


def _outcome(saga: SagaView, ended_at: datetime) -> str:
    """Return how long a saga took, or why it failed."""
    seconds = (ended_at - saga.created_at).total_seconds()
    if saga.phase is Phase.COMPLETED:
        return f"  in {seconds:.1f} s"
    return f"  {saga.error_code}: {saga.message}"


class WorkerLog:
    """The log of one worker, without the block of lines with which it begins.

    Args:
        file: the file to which the worker writes.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0
        self._is_ready_block = False

    def new_lines(self) -> Sequence[str]:
        """Return the complete lines that were written since the last call."""
        try:
            with self._file.open("rb") as log:
                log.seek(self._offset)
                content = log.read()
        except OSError:
            return []
        content = content[: content.rfind(b"\n") + 1]
        self._offset += len(content)
        return [line for line in content.decode(errors="replace").splitlines() if not self._is_of_ready_block(line)]

    def _is_of_ready_block(self, line: str) -> bool:
        begins, ends = line.startswith(READY_LINE), line == LAST_READY_LINE
        is_of_block = self._is_ready_block or begins
        self._is_ready_block = is_of_block and not ends
        return is_of_block
