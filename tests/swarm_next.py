"""The swarm's orchestrators as other code has them: under the same names, with other steps."""

from typing import Any

from orchestrator import Orchestrator, Saga
from orchestrator.catalog import Catalog
from orchestrator.operation import OperationCall
from tests import cast
from tests.cast import count, put, take, write_note
from tests.swarm import LoneCompleted, LoneFailed, LoneRequested, SwarmCompleted, SwarmFailed, SwarmRequested


def _steps(event: SwarmRequested | LoneRequested) -> list[OperationCall[Any]]:
    given: list[OperationCall[Any]] = [
        take(event.source, event.coins),
        put(event.target, event.coins),
        write_note(f"moved {event.coins}"),
    ]
    match event.change:
        case "inserted":
            given.insert(1, count(event.source))
        case "removed":
            del given[1]
        case _:
            given[0], given[1] = given[1], given[0]
    return given


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
