"""The swarm's orchestrators as other code has them: under the same names, with other steps."""

from typing import Any

from orchestrator import Orchestrator, Saga
from orchestrator.definition.catalog import Catalog
from orchestrator.operation import OperationCall
from tests import cast
from tests.cast import count, put, take, write_note
from tests.swarm import LoneCompleted, LoneFailed, LoneRequested, SwarmCompleted, SwarmFailed, SwarmRequested


def _steps(event: SwarmRequested | LoneRequested) -> list[OperationCall[Any]]:
    taken, noted = take(event.source, event.coins), write_note(f"moved {event.coins}")
    if event.change == "removed":  # described in no branch that does not run it: that would be a bug in `handle`
        return [taken, noted]
    given = put(event.target, event.coins)
    return [taken, count(event.source), given, noted] if event.change == "inserted" else [given, taken, noted]


class Swarm(Orchestrator[SwarmRequested, SwarmCompleted, SwarmFailed]):
    """With a step more, a step less, or two that have changed places."""

    partitions = 2

    async def handle(self, event: SwarmRequested, saga: Saga) -> SwarmCompleted:
        """Whatever the event wants to be changed."""
        await saga.execute_all(_steps(event))
        return SwarmCompleted(coins=event.coins)


class Lone(Orchestrator[LoneRequested, LoneCompleted, LoneFailed]):
    """The same, each in an execution of its own."""

    async def handle(self, event: LoneRequested, saga: Saga) -> LoneCompleted:
        """Whatever the event wants to be changed."""
        await saga.execute_all(_steps(event))
        return LoneCompleted(coins=event.coins)


NEXT = Catalog.of(orchestrators=[Swarm, Lone], operations=[cast.take, cast.put, cast.write_note, cast.count])
