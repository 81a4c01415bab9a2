"""Steps of a wave's sagas gather, as those do that end: sagas that began together reach their next steps together."""

import asyncio
from collections.abc import Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass

from orchestrator.protocol.commands import StepCommand, StepReply
from orchestrator.store.saga.steps import StoreSteps

_MOST = 6
"""Steps in one transaction: what one of them is refused for, the others do again."""
_LONGEST = 0.5
"""Seconds that such a transaction may take."""
_BAD = 0.3
"""Share of failures from which on each goes alone: what fails is done twice."""
_WEIGHT = 0.2
_SOONEST, _LATEST = 53, 2_000
"""Steps that go alone before some try again, doubled each time it goes badly; odd, or it might always be the last of
those that come."""


class Odds:
    """How steps of one orchestrator get on in one transaction, of late."""

    def __init__(self) -> None:
        self._failing = 0.0
        self._passed_over = 0
        self._patience = _SOONEST

    def are_good(self) -> bool:
        """Whether to try; seldom also while they are bad, to see whether they still are."""
        if self._failing < _BAD:
            return True
        self._passed_over += 1
        if self._passed_over < self._patience:
            return False
        self._passed_over = 0
        return True

    def tell(self, *, failed: bool) -> None:
        """How one went."""
        self._patience = min(self._patience * 2 + 1, _LATEST) if failed else _SOONEST
        self._failing += _WEIGHT * (failed - self._failing)


@dataclass(frozen=True, slots=True)
class _Gathered:
    command: StepCommand
    context: Context
    done: "asyncio.Future[StepReply | None]"


class StepGroups:
    """Runs steps that come at once in one transaction.

    Args:
        steps: the databases.
        odds: of their orchestrator, in this process.
    """

    def __init__(self, steps: StoreSteps, odds: Odds) -> None:
        self._steps = steps
        self._odds = odds
        self._gathered: list[_Gathered] = []
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, command: StepCommand) -> StepReply | None:
        """Attempt a step with others. None: it is to be attempted by itself."""
        if not self._gathered and not self._odds.are_good():
            return None
        if not self._steps.may_go_together(command):
            return None
        loop = asyncio.get_running_loop()
        done: asyncio.Future[StepReply | None] = loop.create_future()
        self._gathered.append(_Gathered(command, copy_context(), done))
        if len(self._gathered) == 1:
            # Not at once: those that were let go with it come in this turn of the loop and the next.
            loop.call_soon(loop.call_soon, self._begin)
        elif len(self._gathered) == _MOST:
            self._begin()
        return await done

    def _begin(self) -> None:
        together = [one for one in self._gathered if not one.done.done()]
        self._gathered = []
        if len(together) > 1:
            task = asyncio.create_task(self._attempt(together))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        else:
            _tell(together, [None] * len(together))

    async def _attempt(self, together: Sequence[_Gathered]) -> None:
        replies: Sequence[StepReply | None] | None = None
        try:
            async with asyncio.timeout(_LONGEST):
                replies = await self._steps.run_together(
                    [one.command for one in together], [one.context for one in together]
                )
        except TimeoutError:
            pass
        finally:
            self._odds.tell(failed=replies is None)
            _tell(together, replies or [None] * len(together))


def _tell(together: Sequence[_Gathered], replies: Sequence[StepReply | None]) -> None:
    for one, reply in zip(together, replies, strict=True):
        if not one.done.done():
            one.done.set_result(reply)
