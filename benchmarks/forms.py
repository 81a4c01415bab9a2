"""The forms that are compared. Each runs a saga from publishing to its known outcome, and counts its history events."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import uuid4

from temporalio.client import Client

from benchmarks.application import (
    AtomicTransferRequested,
    PartitionedAtomicTransferRequested,
    PartitionedTransferRequested,
    TransferRequested,
)
from benchmarks.ledger import ACCOUNTS
from benchmarks.orchestrators import (
    OwnAtomicTransfer,
    OwnTransfer,
    PartitionedAtomicTransfer,
    PartitionedTransfer,
)
from benchmarks.plain import PlainAtomicTransfer, PlainTransfer
from benchmarks.plain_activities import Transfer
from benchmarks.samples import Placement
from benchmarks.stack import PLAIN_QUEUE, Side
from orchestrator import Orchestrator
from orchestrator.client import EventBus
from orchestrator.protocol.commands import Phase

AMOUNT = 7
_SAMPLED_EXECUTIONS = 5
"""How many executions' histories are counted, if each saga has its own execution."""
_numbers = count()


class NotCompleted(Exception):
    """A saga did not complete."""


def next_pair() -> tuple[int, int]:
    """Return two accounts that none of the last few hundred sagas used."""
    first = 2 * next(_numbers) % ACCOUNTS
    return first, first + 1


@dataclass(frozen=True, slots=True)
class FormName:
    """Identifies a form by its placement and its number of transactions."""

    placement: Placement
    transactions: int

    def __str__(self) -> str:
        return f"{self.placement}, {'3 transactions' if self.transactions == 3 else '1 transaction'}"


PLAIN = FormName("plain", 3)


class Form(ABC):
    """One of the compared ways to run a saga.

    Attributes:
        name: identifies the form.
        side: the side whose workers run it.
    """

    def __init__(self, name: FormName, side: Side, client: Client) -> None:
        self.name = name
        self.side: Side = side
        self._client = client
        self._latest: deque[str] = deque(maxlen=_SAMPLED_EXECUTIONS)

    @abstractmethod
    async def run_saga(self) -> None:
        """Start a saga and wait for its outcome.

        Raises:
            NotCompleted: the saga did not complete.
        """

    async def history_length(self) -> int:
        """Return how many events the histories that sagas share have. 0 if each saga has its own history."""
        return 0

    async def history_per_saga(self, sagas: int, before: int) -> float:
        """Return the history events per saga, averaged over recent sagas.

        Args:
            sagas: how many sagas ran since `before` was read.
            before: the earlier result of `history_length`.
        """
        lengths = [
            (await self._client.get_workflow_handle(workflow_id).describe()).history_length
            for workflow_id in self._latest
        ]
        return sum(lengths) / max(1, len(lengths))


class PlainForm(Form):
    """A plain Temporal saga."""

    def __init__(self, client: Client, workflow: type[PlainTransfer | PlainAtomicTransfer], transactions: int) -> None:
        super().__init__(FormName("plain", transactions), "plain", client)
        self._workflow = workflow

    async def run_saga(self) -> None:
        """Start the workflow and wait for its result."""
        source, target = next_pair()
        handle = await self._client.start_workflow(
            self._workflow.run,
            Transfer(source=source, target=target, amount=AMOUNT),
            id=f"{self._workflow.__name__}/{uuid4()}",
            task_queue=PLAIN_QUEUE,
        )
        await handle.result()
        self._latest.append(handle.id)


class EngineForm(Form):
    """The engine, with each saga in its own execution."""

    placement: Placement = "own execution"

    def __init__(
        self,
        bus: EventBus,
        orchestrator: type[Orchestrator[Any, Any, Any]],
        event: type[TransferRequested],
        transactions: int,
    ) -> None:
        super().__init__(FormName(self.placement, transactions), "engine", bus.client)
        self._bus = bus
        self._orchestrator = orchestrator
        self._event = event

    async def run_saga(self) -> None:
        """Publish an event and wait for its saga's outcome."""
        source, target = next_pair()
        [handle] = await self._bus.publish(self._event(source=source, target=target, amount=AMOUNT))
        outcome = await handle.outcome()
        if outcome.phase is not Phase.COMPLETED:
            raise NotCompleted(f"{handle.workflow_id}, event {handle.event_id}: {outcome.phase}")
        self._latest.append(handle.workflow_id)


class PartitionedForm(EngineForm):
    """The engine, with many sagas in each of a few executions."""

    placement: Placement = "partitions"

    async def history_length(self) -> int:
        """Add up all runs of all executions of the type, including the own executions that some sagas got."""
        runs = self._client.list_workflows(f"WorkflowType = '{self._orchestrator.__name__}'")
        ids = [(run.id, run.run_id) async for run in runs]
        return sum(
            [(await self._client.get_workflow_handle(id, run_id=run).describe()).history_length for id, run in ids]
        )

    async def history_per_saga(self, sagas: int, before: int) -> float:
        """Divide the events that were added since `before` by the number of sagas."""
        return (await self.history_length() - before) / max(1, sagas)


def all_forms(client: Client, bus: EventBus) -> Sequence[Form]:
    """Return every form, starting with the plain saga."""
    return (
        PlainForm(client, PlainTransfer, 3),
        PlainForm(client, PlainAtomicTransfer, 1),
        EngineForm(bus, OwnTransfer, TransferRequested, 3),
        EngineForm(bus, OwnAtomicTransfer, AtomicTransferRequested, 1),
        PartitionedForm(bus, PartitionedTransfer, PartitionedTransferRequested, 3),
        PartitionedForm(bus, PartitionedAtomicTransfer, PartitionedAtomicTransferRequested, 1),
    )
