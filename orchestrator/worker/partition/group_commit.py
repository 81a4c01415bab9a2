"""Group commit of steps: steps that the sagas of a wave reach at the same time run in one transaction."""

import asyncio
from collections.abc import Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass

from orchestrator.protocol.commands import StepCommand, StepReply
from orchestrator.store.saga.steps import StoreSteps

_GROUP_STEPS = 6
"""The maximum number of steps in one transaction. If one of them is refused, the others have to be repeated."""
_TIMEOUT = 0.5
"""How many seconds such a transaction may take."""
_FAILURE_SHARE = 0.3
"""The share of failed groups above which steps run alone, because the steps of a failed group run twice."""
_WEIGHT = 0.2
"""The weight of the latest group in the share of failed groups, which is an exponential moving average."""
_FEWEST_ALONE, _MOST_ALONE = 53, 2_000
"""The minimum and maximum number of steps that run alone before a group is tried again; the number doubles with each
failure. Below the maximum it is odd, because with an even number the group might always be tried with the last step of
a batch."""


class GroupCommitSwitch:
    """Decides whether to try another group commit of one orchestrator, by how many have failed recently."""

    def __init__(self) -> None:
        self._failing = 0.0
        self._passed_over = 0
        self._patience = _FEWEST_ALONE

    def should_try(self) -> bool:
        """Return whether to try a group. While groups fail, one is tried occasionally, to see if they still do."""
        if self._failing < _FAILURE_SHARE:
            return True
        self._passed_over += 1
        if self._passed_over < self._patience:
            return False
        self._passed_over = 0
        return True

    def record(self, *, failed: bool) -> None:
        """Record the result of one group."""
        self._patience = min(self._patience * 2 + 1, _MOST_ALONE) if failed else _FEWEST_ALONE
        self._failing += _WEIGHT * (failed - self._failing)


@dataclass(frozen=True, slots=True)
class _QueuedStep:
    command: StepCommand
    context: Context
    reply: "asyncio.Future[StepReply | None]"


class StepGroups:
    """Runs steps that arrive at the same time in one transaction.

    Args:
        steps: the steps' port to the databases.
        switch: whether to group steps of this orchestrator in this process.
    """

    def __init__(self, steps: StoreSteps, switch: GroupCommitSwitch) -> None:
        self._steps = steps
        self._switch = switch
        self._queue: list[_QueuedStep] = []
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, command: StepCommand) -> StepReply | None:
        """Attempt a step in a group with others. Return None if the caller must attempt it alone."""
        if not self._queue and not self._switch.should_try():
            return None
        if not self._steps.can_join_group(command):
            return None
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[StepReply | None] = loop.create_future()
        self._queue.append(_QueuedStep(command, copy_context(), reply))
        if len(self._queue) == 1:
            # Wait two iterations of the event loop, to give the other sagas time to reach their steps.
            loop.call_soon(loop.call_soon, self._begin)
        elif len(self._queue) == _GROUP_STEPS:
            self._begin()
        return await reply

    def _begin(self) -> None:
        group = [step for step in self._queue if not step.reply.done()]
        self._queue = []
        if len(group) > 1:
            task = asyncio.create_task(self._attempt(group))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        else:
            _set_replies(group, [None] * len(group))

    async def _attempt(self, group: Sequence[_QueuedStep]) -> None:
        replies: Sequence[StepReply | None] | None = None
        try:
            async with asyncio.timeout(_TIMEOUT):
                replies = await self._steps.run_group(
                    [step.command for step in group], [step.context for step in group]
                )
        except TimeoutError:
            pass
        finally:
            self._switch.record(failed=replies is None)
            _set_replies(group, replies or [None] * len(group))


def _set_replies(group: Sequence[_QueuedStep], replies: Sequence[StepReply | None]) -> None:
    for step, reply in zip(group, replies, strict=True):
        if not step.reply.done():
            step.reply.set_result(reply)
