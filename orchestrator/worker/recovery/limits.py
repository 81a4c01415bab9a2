"""The state of one sweep of recovery: its limits, what it has checked, and what it has done so far."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from temporalio.client import Client

from orchestrator.client.executions.own_execution import ensure_own_execution
from orchestrator.client.executions.renewal import begin_again, cancel_if_running
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.messages.envelope import Envelope
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.worker.recovery.execution_status import ExecutionStatus
from orchestrator.workflow.system.recovery import Action, Finding


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one sweep."""

    grace: timedelta = timedelta(seconds=30)
    """Time without progress after which a sweep asks the server whether a saga has a live driver."""
    ceiling: int = 500
    """The maximum number of sagas and messages that one sweep acts on. At the ceiling the sweep stops asking the server
    about sagas."""
    looks: int = 10_000
    """The maximum number of stalled sagas about which one sweep asks the server. Each costs one or two requests,
    although most of them may be alive."""
    findings: int = 1_000
    """The maximum number of findings that one sweep stores. All findings are counted."""

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """Return the limits that the settings define."""
        return cls(timedelta(seconds=settings.recovery_grace), settings.recovery_ceiling)


@dataclass(kw_only=True)
class SweepState:
    """A running sweep."""

    client: Client
    databases: Databases
    catalog: Catalog
    task_queue: str
    limits: Limits
    dry_run: bool
    heartbeat: Callable[[int], None]
    """Called for each saga, to send the sweep's heartbeats."""
    seen: set[UUID] = field(default_factory=set[UUID])
    """The ids of the sagas that were checked."""
    partitions: dict[str, "asyncio.Future[ExecutionStatus]"] = field(
        default_factory=dict[str, "asyncio.Future[ExecutionStatus]"]
    )
    """The status of each partition, keyed by workflow id, so that the server is asked only once about each."""
    alive: int = 0
    """The number of checked sagas that have a live driver."""
    acted: int = 0
    """The number of sagas and messages that were acted on, which the ceiling limits."""
    _acting: int = 0
    """The number of sagas and messages that are being acted on now."""
    _change: asyncio.Condition = field(default_factory=asyncio.Condition)
    counts: Counter[Action] = field(default_factory=Counter[Action])
    findings: list[Finding] = field(default_factory=list[Finding])

    @property
    def is_full(self) -> bool:
        """Whether the ceiling is reached, so that any further action would only be postponed."""
        return self.acted >= self.limits.ceiling

    @property
    def has_looked_enough(self) -> bool:
        """Whether this sweep checks no further stalled saga."""
        return self.is_full or len(self.seen) >= self.limits.looks

    @property
    def database(self) -> Database:
        """The home database."""
        return self.databases.home

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[bool]:
        """Reserve one action under the ceiling, and yield whether that was possible.

        An action that fails does not count, so that a saga that always fails does not starve the others.
        """
        async with self._change:
            await self._change.wait_for(lambda: self.acted + self._acting < self.limits.ceiling or not self._acting)
            has_slot = self.acted + self._acting < self.limits.ceiling
            self._acting += has_slot
        try:
            yield has_slot
            self.acted += has_slot
        finally:
            async with self._change:
                self._acting -= has_slot
                self._change.notify_all()

    def note(self, action: Action, workflow_id: str, why: str) -> Action:
        """Count an action, and store it as a finding if there is room. Return the action."""
        self.counts[action] += 1
        if len(self.findings) < self.limits.findings:
            self.findings.append(Finding(action=action, workflow_id=workflow_id, why=why))
        return action

    def postpone(self, workflow_id: str, why: str) -> Action:
        """Record that an action is postponed to the next sweep, because this one has reached its ceiling."""
        return self.note(Action.POSTPONE, workflow_id, f"{why}; the ceiling of {self.limits.ceiling} is reached")

    async def drive(self, orchestrator: str, envelope: Envelope, own: ExecutionStatus, *, undoes: bool = False) -> None:
        """Make sure that a saga has its own execution.

        Args:
            orchestrator: the orchestrator's name.
            envelope: the saga's event.
            own: the status of the saga's own execution.
            undoes: whether the database has recorded that the saga must be undone.

        Raises:
            temporalio.service.RPCError: the server did not accept the request.
        """
        if self.dry_run:
            return
        # The execution may have completed although the saga has not, for example after the database was restored.
        await ensure_own_execution(
            self.client, orchestrator, envelope, self.task_queue, although_completed=own.has_completed, undoes=undoes
        )

    async def begin_again(self, execution: ExecutionStatus, *, cancelled: bool) -> None:
        """Restart an execution with an empty history, so that it undoes its saga.

        Raises:
            temporalio.service.RPCError: the server does not answer.
        """
        if self.dry_run:
            return
        reason = "its workflow task fails, and its saga must be undone"
        await begin_again(self.client, execution.workflow_id, execution.run_id, reason=reason, undoes=True)
        if cancelled:
            await cancel_if_running(self.client, execution.workflow_id, reason=reason)
