"""Waits for published sagas, and reports their progress as it happens and how each saga ended."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from temporalio.client import Client
from temporalio.service import RPCError

from orchestrator.cli.diagnosis.blocked_reason import BlockedReason, Reason, reason_of
from orchestrator.cli.terminal.exit_codes import Exit, describe_failure
from orchestrator.client.handle import SagaHandle
from orchestrator.client.outcomes.progress import Progress
from orchestrator.errors import NotFinished, OrchestratorError, Unreachable
from orchestrator.protocol.commands import Outcome, Phase

_QUIET = 2.0
"""After how many seconds without progress the command asks Temporal for the reason."""


@dataclass(slots=True)
class SagaWatch:
    """What is known about one saga while the command waits for it."""

    handle: SagaHandle[Any]
    progress: list[Progress] = field(default_factory=list[Progress])
    outcome: Outcome | None = None
    fault: OrchestratorError | None = None
    """Why there is no outcome."""
    reason: Reason | None = None
    """Why the saga has not finished, if that is known."""

    @property
    def exit(self) -> Exit:
        """The exit code for this saga."""
        if self.outcome is not None:
            return Exit.COMPLETED if self.outcome.phase is Phase.COMPLETED else Exit.FAILED
        failure = None if self.fault is None else describe_failure(self.fault)
        return Exit.NOT_FINISHED if failure is None else failure.exit


PrintProgress = Callable[[SagaWatch, Progress], None]
Remark = Callable[[str], None]


async def watch(
    client: Client,
    handles: Sequence[SagaHandle[Any]],
    *,
    timeout_seconds: float | None,
    print_progress: PrintProgress | None,
    remark: Remark,
) -> list[SagaWatch]:
    """Wait until every saga has ended, or until the timeout.

    Args:
        client: the connection to Temporal that the handles belong to.
        handles: the sagas.
        timeout_seconds: the maximum number of seconds to wait; None waits until all have ended.
        print_progress: called whenever a saga makes progress; None if progress is not shown.
        remark: called once with the reason if no worker picks up the sagas' tasks.
    """
    watches = [SagaWatch(handle) for handle in handles]
    remarked: set[BlockedReason] = set()

    def remark_once(reason: Reason) -> None:
        if reason.kind.is_untaken and reason.kind not in remarked:
            remarked.add(reason.kind)
            remark(reason.sentence)

    await asyncio.gather(
        *(_watch_saga(client, saga_watch, timeout_seconds, print_progress, remark_once) for saga_watch in watches)
    )
    return watches


async def _watch_saga(
    client: Client,
    saga_watch: SagaWatch,
    timeout_seconds: float | None,
    print_progress: PrintProgress | None,
    remark: Callable[[Reason], None],
) -> None:
    try:
        async with asyncio.timeout(timeout_seconds):
            if print_progress is not None:
                await _follow(client, saga_watch, print_progress, remark)
            saga_watch.outcome = await saga_watch.handle.outcome()
    except TimeoutError:
        saga_watch.reason = await _find_reason(client, saga_watch)
        current = f". At present: {saga_watch.reason.sentence}" if saga_watch.reason else ""
        saga_watch.fault = NotFinished(
            f"{saga_watch.handle.workflow_id} has not finished within {timeout_seconds:g} s and continues{current}"
        )
    except RPCError as fault:
        saga_watch.fault = Unreachable(
            f"Temporal stopped answering ({fault.message}). {saga_watch.handle.workflow_id} was accepted and continues"
        )
    except OrchestratorError as fault:
        saga_watch.fault = fault


async def _follow(
    client: Client, saga_watch: SagaWatch, print_progress: PrintProgress, remark: Callable[[Reason], None]
) -> None:
    progress = saga_watch.handle.follow()
    try:
        while True:
            next_step = asyncio.ensure_future(anext(progress, None))
            try:
                while not (await asyncio.wait({next_step}, timeout=_QUIET))[0]:
                    reason = await _find_reason(client, saga_watch)
                    if reason is not None:
                        remark(reason)
                step = await next_step
            finally:
                if not next_step.done():
                    next_step.cancel()
                    await asyncio.gather(next_step, return_exceptions=True)
            if step is None:
                return
            saga_watch.progress.append(step)
            print_progress(saga_watch, step)
    finally:
        await progress.aclose()


async def _find_reason(client: Client, saga_watch: SagaWatch) -> Reason | None:
    """Return why the saga is not done, or None if Temporal does not answer, because nothing depends on the answer."""
    try:
        async with asyncio.timeout(5):
            return await reason_of(client, saga_watch.handle.workflow_id)
    except (TimeoutError, RPCError, Unreachable):
        return None
