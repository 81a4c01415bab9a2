"""The next version of the swarm's orchestrators: the same names with other steps."""

from typing import Any

from orchestrator import Orchestrator, Saga
from orchestrator.definition.catalog import Catalog
from orchestrator.operation import OperationCall
from tests import cast
from tests.cast import count, put, take, write_note
from tests.swarm import LoneCompleted, LoneFailed, LoneRequested, SwarmCompleted, SwarmFailed, SwarmRequested


def _steps(event: SwarmRequested | LoneRequested) -> list[OperationCall[Any]]:
    taking, noting = take(event.source, event.coins), write_note(f"moved {event.coins}")
    if event.change == "removed":  # `put` is not even described here: a call that is described and not run is a bug
        return [taking, noting]
    putting = put(event.target, event.coins)
    return [taking, count(event.source), putting, noting] if event.change == "inserted" else [putting, taking, noting]


class Swarm(Orchestrator[SwarmRequested, SwarmCompleted, SwarmFailed]):
    """One step more, one step fewer, or two steps swapped."""

    partitions = 2

    async def handle(self, event: SwarmRequested, saga: Saga) -> SwarmCompleted:
        await saga.execute_all(*_steps(event))
        return SwarmCompleted(coins=event.coins)


class Lone(Orchestrator[LoneRequested, LoneCompleted, LoneFailed]):
    """The same changes in the saga's own execution."""

    async def handle(self, event: LoneRequested, saga: Saga) -> LoneCompleted:
        await saga.execute_all(*_steps(event))
        return LoneCompleted(coins=event.coins)


NEXT = Catalog.of(orchestrators=[Swarm, Lone], operations=[cast.take, cast.put, cast.write_note, cast.count])
