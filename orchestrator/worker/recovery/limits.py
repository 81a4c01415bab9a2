"""One sweep of recovery under way: what it works with, how far it may go, and what it has seen so far."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from temporalio.client import Client

from orchestrator.client.own_execution import ensure_own_execution
from orchestrator.client.renewal import begin_again, cancel_if_running
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.envelope import Envelope
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.worker.recovery.execution_status import ExecutionStatus
from orchestrator.workflow.system.recovery import Action, Finding


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a sweep goes."""

    grace: timedelta = timedelta(seconds=30)
    """Silence after which it is asked who drives a saga."""
    ceiling: int = 500
    """Sagas and messages that one sweep acts upon at most. Once it has, it asks the server about no other saga."""
    looks: int = 10_000
    """Silent sagas that one sweep asks the server about at most: each costs a request or two, and most may be alive."""
    findings: int = 1_000
    """Findings that one sweep keeps at most; it counts all of them."""

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """As set."""
        return cls(timedelta(seconds=settings.recovery_grace), settings.recovery_ceiling)


@dataclass(kw_only=True)
class Sweeping:
    """A sweep under way."""

    client: Client
    databases: Databases
    catalog: Catalog
    task_queue: str
    limits: Limits
    dry_run: bool
    heard: Callable[[int], None]
    """Called with each saga, so that whoever watches knows that the sweep lives."""
    seen: set[UUID] = field(default_factory=set[UUID])
    """Sagas that were looked at."""
    partitions: dict[str, "asyncio.Future[ExecutionStatus]"] = field(
        default_factory=dict[str, "asyncio.Future[ExecutionStatus]"]
    )
    """How partitions stand, by their ids; each is asked about once."""
    alive: int = 0
    """Of those: an execution runs that drives them."""
    acted: int = 0
    """Places under the ceiling that were used."""
    _acting: int = 0
    _change: asyncio.Condition = field(default_factory=asyncio.Condition)
    counts: Counter[Action] = field(default_factory=Counter[Action])
    findings: list[Finding] = field(default_factory=list[Finding])

    @property
    def is_full(self) -> bool:
        """Whether the ceiling is reached: whatever is looked at from now on would only be postponed."""
        return self.acted >= self.limits.ceiling

    @property
    def has_looked_enough(self) -> bool:
        """Whether no other silent saga is looked at."""
        return self.is_full or len(self.seen) >= self.limits.looks

    @property
    def database(self) -> Database:
        """The home database."""
        return self.databases.home

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[bool]:
        """Whether there is a place under the ceiling. What fails gives it back to whoever waits for one: a saga that
        always fails must not starve the others."""
        async with self._change:
            await self._change.wait_for(lambda: self.acted + self._acting < self.limits.ceiling or not self._acting)
            has_place = self.acted + self._acting < self.limits.ceiling
            self._acting += has_place
        try:
            yield has_place
            self.acted += has_place
        finally:
            async with self._change:
                self._acting -= has_place
                self._change.notify_all()

    def note(self, action: Action, workflow_id: str, why: str) -> Action:
        """Count what was found; the first so many findings are kept."""
        self.counts[action] += 1
        if len(self.findings) < self.limits.findings:
            self.findings.append(Finding(action=action, workflow_id=workflow_id, why=why))
        return action

    def postpone(self, workflow_id: str, why: str) -> Action:
        """Remember what the next sweep will act upon."""
        return self.note(Action.POSTPONE, workflow_id, f"{why}; the ceiling of {self.limits.ceiling} is reached")

    async def drive(self, orchestrator: str, envelope: Envelope, own: ExecutionStatus, *, undoes: bool = False) -> None:
        """See that a saga has its own execution.

        Args:
            orchestrator: its name.
            envelope: its event.
            own: how its own execution stands.
            undoes: the database has decided that the saga is undone.

        Raises:
            temporalio.service.RPCError: the server did not take it.
        """
        if self.dry_run:
            return
        # One that has completed though the database says that the saga has not: the database was restored, say.
        await ensure_own_execution(
            self.client, orchestrator, envelope, self.task_queue, although_completed=own.has_completed, undoes=undoes
        )

    async def begin_again(self, execution: ExecutionStatus, *, cancelled: bool) -> None:
        """Have an execution begin again with an empty history, and undo.

        Raises:
            temporalio.service.RPCError: the server does not answer.
        """
        if self.dry_run:
            return
        reason = "its workflow task fails, and its saga is to be undone"
        await begin_again(self.client, execution.workflow_id, execution.run_id, reason=reason, undoes=True)
        if cancelled:
            await cancel_if_running(self.client, execution.workflow_id, reason=reason)
