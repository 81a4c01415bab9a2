"""The forms that are compared: each runs one saga from publishing to its known outcome, and counts its history."""

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
_LOOKED_AT = 5
"""Executions whose history is counted, where each saga has one."""
_numbers = count()


class NotCompleted(Exception):
    """A saga came to another end than the one it must come to here."""


def next_pair() -> tuple[int, int]:
    """Two accounts that no saga of the last few hundred has had."""
    first = 2 * next(_numbers) % ACCOUNTS
    return first, first + 1


@dataclass(frozen=True, slots=True)
class FormName:
    """Which form it is."""

    placement: Placement
    transactions: int

    def __str__(self) -> str:
        return f"{self.placement}, {'3 transactions' if self.transactions == 3 else '1 transaction'}"


PLAIN = FormName("plain", 3)


class Form(ABC):
    """One form.

    Attributes:
        name: which.
        side: whose workers run it.
    """

    def __init__(self, name: FormName, side: Side, client: Client) -> None:
        self.name = name
        self.side: Side = side
        self._client = client
        self._latest: deque[str] = deque(maxlen=_LOOKED_AT)

    @abstractmethod
    async def run_saga(self) -> None:
        """Publish, and wait for the outcome.

        Raises:
            NotCompleted: it was not done.
        """

    async def history_length(self) -> int:
        """Events of the histories that its sagas share, until now; 0 where each saga has one of its own."""
        return 0

    async def history_a_saga(self, sagas: int, before: int) -> float:
        """History events a saga, of the last ones.

        Args:
            sagas: how many there were since `before`.
            before: what `history_length` was then.
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
        """Start it, and wait for its result."""
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
    """The engine, each saga in an execution of its own."""

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
        """Publish its event, and wait for the outcome."""
        source, target = next_pair()
        [handle] = await self._bus.publish(self._event(source=source, target=target, amount=AMOUNT))
        outcome = await handle.outcome()
        if outcome.phase is not Phase.COMPLETED:
            raise NotCompleted(f"{handle.workflow_id}, event {handle.event_id}: {outcome.phase}")
        self._latest.append(handle.workflow_id)


class PartitionedForm(EngineForm):
    """The engine, many sagas in each of a few executions."""

    placement: Placement = "partitions"

    async def history_length(self) -> int:
        """Of every execution of its type, all runs: those that sagas got for themselves count, too."""
        runs = self._client.list_workflows(f"WorkflowType = '{self._orchestrator.__name__}'")
        known = [(run.id, run.run_id) async for run in runs]
        return sum(
            [(await self._client.get_workflow_handle(id, run_id=run).describe()).history_length for id, run in known]
        )

    async def history_a_saga(self, sagas: int, before: int) -> float:
        """What was added meanwhile, shared among all of them."""
        return (await self.history_length() - before) / max(1, sagas)


def all_forms(client: Client, bus: EventBus) -> Sequence[Form]:
    """Every form, the plain saga first."""
    return (
        PlainForm(client, PlainTransfer, 3),
        PlainForm(client, PlainAtomicTransfer, 1),
        EngineForm(bus, OwnTransfer, TransferRequested, 3),
        EngineForm(bus, OwnAtomicTransfer, AtomicTransferRequested, 1),
        PartitionedForm(bus, PartitionedTransfer, PartitionedTransferRequested, 3),
        PartitionedForm(bus, PartitionedAtomicTransfer, PartitionedAtomicTransferRequested, 1),
    )
