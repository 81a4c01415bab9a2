"""Waiting for sagas that were published: their progress as it comes, then how each ended."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from temporalio.client import Client
from temporalio.service import RPCError

from orchestrator.cli.sagas.retry_reason import BlockedReason, Reason, reason_of
from orchestrator.cli.terminal.exit_codes import Exit, told
from orchestrator.client.handle import SagaHandle
from orchestrator.client.outcomes.progress import Progress
from orchestrator.errors import NotFinished, OrchestratorError, Unreachable
from orchestrator.protocol.commands import Outcome, Phase

_QUIET = 2.0
"""Seconds without progress after which the reason is looked for."""


@dataclass(slots=True)
class Watched:
    """One saga while it is waited for, and what came of it."""

    handle: SagaHandle[Any]
    progress: list[Progress] = field(default_factory=list[Progress])
    outcome: Outcome | None = None
    fault: OrchestratorError | None = None
    """Why there is no outcome."""
    reason: Reason | None = None
    """Why it was not finished, if that could be found out."""

    @property
    def exit(self) -> Exit:
        """What it comes to."""
        if self.outcome is not None:
            return Exit.COMPLETED if self.outcome.phase is Phase.COMPLETED else Exit.FAILED
        expected = None if self.fault is None else told(self.fault)
        return Exit.NOT_FINISHED if expected is None else expected.exit


Tell = Callable[[Watched, Progress], None]
Remark = Callable[[str], None]


async def watch(
    client: Client,
    handles: Sequence[SagaHandle[Any]],
    *,
    timeout_seconds: float | None,
    tell: Tell | None,
    remark: Remark,
) -> list[Watched]:
    """Wait until every saga has ended, or the timeout is over.

    Args:
        client: the connection that the handles came by.
        handles: the sagas.
        timeout_seconds: how long; without it, as long as it takes.
        tell: called for each thing that happens; None if nobody follows.
        remark: called once with the reason if nobody takes the work.
    """
    watched = [Watched(handle) for handle in handles]
    said: set[BlockedReason] = set()

    def remark_once(reason: Reason) -> None:
        if reason.kind.is_untaken and reason.kind not in said:
            said.add(reason.kind)
            remark(reason.sentence)

    await asyncio.gather(*(_one(client, each, timeout_seconds, tell, remark_once) for each in watched))
    return watched


async def _one(
    client: Client,
    watched: Watched,
    timeout_seconds: float | None,
    tell: Tell | None,
    remark: Callable[[Reason], None],
) -> None:
    try:
        async with asyncio.timeout(timeout_seconds):
            if tell is not None:
                await _follow(client, watched, tell, remark)
            watched.outcome = await watched.handle.outcome()
    except TimeoutError:
        watched.reason = await _reason(client, watched)
        now = f". Just now: {watched.reason.sentence}" if watched.reason else ""
        watched.fault = NotFinished(
            f"{watched.handle.workflow_id} has not finished within {timeout_seconds:g} s; it goes on{now}"
        )
    except RPCError as fault:
        watched.fault = Unreachable(
            f"Temporal stopped answering ({fault.message}). {watched.handle.workflow_id} was accepted, and goes on"
        )
    except OrchestratorError as fault:
        watched.fault = fault


async def _follow(client: Client, watched: Watched, tell: Tell, remark: Callable[[Reason], None]) -> None:
    progress = watched.handle.follow()
    try:
        while True:
            following = asyncio.ensure_future(anext(progress, None))
            try:
                while not (await asyncio.wait({following}, timeout=_QUIET))[0]:
                    reason = await _reason(client, watched)
                    if reason is not None:
                        remark(reason)
                happened = await following
            finally:
                if not following.done():
                    following.cancel()
                    await asyncio.gather(following, return_exceptions=True)
            if happened is None:
                return
            watched.progress.append(happened)
            tell(watched, happened)
    finally:
        await progress.aclose()


async def _reason(client: Client, watched: Watched) -> Reason | None:
    """Why it is not done; None if that cannot be found out, as nothing depends on it."""
    try:
        async with asyncio.timeout(5):
            return await reason_of(client, watched.handle.workflow_id)
    except (TimeoutError, RPCError, Unreachable):
        return None
