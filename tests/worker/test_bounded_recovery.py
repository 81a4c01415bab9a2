"""Recovery's work and memory are bounded, however many sagas are stalled or executions were terminated."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import insert, update
from temporalio.api.enums.v1 import WorkflowExecutionStatus

from orchestrator.protocol.messages.dead_letters import Inbound
from orchestrator.protocol.messages.envelope import saga_id, wrap
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga
from orchestrator.worker.recovery import limits as recovery_limits
from orchestrator.worker.recovery import stalled_sagas, undelivered_messages
from orchestrator.worker.recovery import sweep as recovery_sweep
from orchestrator.worker.recovery.closed_runs import ClosedRun
from orchestrator.worker.recovery.execution_status import ExecutionStatus
from orchestrator.worker.recovery.limits import Limits
from orchestrator.worker.recovery.sweep import Recovery
from orchestrator.workflow.system.recovery import Action
from tests.cast_events import CoinsMoveRequested
from tests.house import CATALOG

MOVE = CoinsMoveRequested(source="a", target="b", coins=10)
RUNNING = WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING


class Server:
    """A stand-in for Temporal that counts requests and knows which executions run."""

    def __init__(self) -> None:
        self.described: list[str] = []
        self.histories: list[str] = []
        self.running: set[str] = set()
        self.driven: list[str] = []
        self.closed: list[ClosedRun] = []

    async def status_of_execution(self, _client: Any, workflow_id: str, *_: Any) -> ExecutionStatus:
        """Describe an execution."""
        self.described.append(workflow_id)
        return (
            ExecutionStatus(workflow_id, status=RUNNING)
            if workflow_id in self.running
            else ExecutionStatus(workflow_id)
        )

    async def ensure(self, _client: Any, orchestrator: str, envelope: Any, *_: Any, **__: Any) -> None:
        """Start an execution."""
        self.driven.append(envelope.event_id)
        self.running.add(f"{orchestrator}/event/{envelope.event_id}")

    async def closed_abnormally(self, *_: Any, **__: Any) -> AsyncIterator[ClosedRun]:
        """List the executions that closed abnormally."""
        for run in self.closed:
            yield run

    async def messages_of(self, _client: Any, run: ClosedRun) -> list[Inbound]:
        """Read an execution's history, which holds only the event that started it."""
        self.histories.append(run.run_id)
        return [Inbound("start", 1, wrap(MOVE, event_id=run.run_id, source="tests").text.encode())]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """A stand-in for the real server, which could not start 20,000 executions within a test."""
    server = Server()

    async def newest_close(_client: Any) -> datetime:
        return datetime.now(UTC)

    monkeypatch.setattr(stalled_sagas, "status_of_execution", server.status_of_execution)
    monkeypatch.setattr(undelivered_messages, "status_of_execution", server.status_of_execution)
    monkeypatch.setattr(undelivered_messages, "messages_of", server.messages_of)
    monkeypatch.setattr(recovery_limits, "ensure_own_execution", server.ensure)
    monkeypatch.setattr(recovery_sweep, "closed_abnormally", server.closed_abnormally)
    monkeypatch.setattr(recovery_sweep, "newest_close", newest_close)
    return server


def recovery_of(database: Database, **limits: Any) -> Recovery:
    """A recovery that uses the stand-in server."""

    async def cluster(_request: Any) -> Any:
        return SimpleNamespace(cluster_id="cluster")

    async def none(*_: Any, **__: Any) -> AsyncIterator[Any]:
        nothing: tuple[Any, ...] = ()
        for run in nothing:
            yield run

    client: Any = SimpleNamespace(
        namespace="default", workflow_service=SimpleNamespace(get_cluster_info=cluster), list_workflows=none
    )
    return Recovery(client, database, CATALOG, task_queue="tests", limits=Limits(**limits))


async def add_stalled_sagas(database: Database, number: int) -> list[str]:
    """Add sagas that have been stalled for hours, the longest stalled first; returns their event ids."""
    now = datetime.now(UTC)
    template = wrap(MOVE, event_id="EVENT-ID", source="tests").text
    ids = [f"event-{index}" for index in range(number)]
    rows = [
        {
            "id": saga_id("CoinsMove", event_id),
            "orchestrator": "CoinsMove",
            "event_id": event_id,
            "envelope": template.replace("EVENT-ID", event_id),
            "event_type": MOVE.type_name(),
            "event_version": 1,
            "content_digest": "0" * 64,
            "phase": "forward",
            "created_at": now,
            "progressed_at": now - timedelta(hours=10) + timedelta(seconds=index / 10),
        }
        for index, event_id in enumerate(ids)
    ]
    async with database.transaction() as connection:
        for first in range(0, number, 2_000):
            await connection.execute(insert(saga), rows[first : first + 2_000])
    return ids


async def test_a_sweep_of_20_000_stalled_sagas_stays_below_its_ceiling_of_requests(
    database: Database, server: Server
) -> None:
    await add_stalled_sagas(database, 20_000)

    swept = await recovery_of(database, ceiling=500).sweep()

    assert (swept.counts[Action.RESUME], len(server.driven)) == (500, 500)
    assert len(server.described) <= 500 + 20  # plus those that were in flight when it was reached
    assert swept.looked_at == len(server.described)
    assert len(swept.findings) <= 520
    assert swept.has_more


async def test_sweeps_reach_every_saga_even_after_thousands_that_are_alive(database: Database, server: Server) -> None:
    ids = await add_stalled_sagas(database, 3_000)
    server.running = {f"CoinsMove/event/{event_id}" for event_id in ids[:2_900]}
    sweeps = recovery_of(database, looks=1_000)

    swept = [await sweeps.sweep() for _ in range(3)]

    assert [sweep.looked_at for sweep in swept] == [1_000, 1_000, 1_000]
    assert sorted(server.driven) == sorted(ids[2_900:])
    assert (await sweeps.sweep()).alive == 1_000  # it starts from the beginning again


async def test_a_sweep_that_begins_in_the_middle_wraps_around_to_the_first_sagas(
    database: Database, server: Server
) -> None:
    ids = await add_stalled_sagas(database, 1_000)
    sweeps = recovery_of(database, ceiling=600)
    await sweeps.sweep()
    server.running.clear()
    server.driven.clear()

    swept = await sweeps.sweep()

    assert set(ids[620:]) < set(server.driven)
    assert (swept.counts[Action.RESUME], swept.has_more) == (600, True)


async def test_all_findings_are_counted_but_only_the_first_are_kept(database: Database, server: Server) -> None:
    await add_stalled_sagas(database, 300)
    async with database.transaction() as connection:
        await connection.execute(update(saga).values(orchestrator="Unheard"))

    swept = await recovery_of(database, findings=50).sweep(dry_run=True)

    assert (swept.counts[Action.LEAVE], len(swept.findings)) == (300, 50)
    assert len(server.described) == 300


async def test_no_history_is_read_above_the_ceiling_or_read_twice(database: Database, server: Server) -> None:
    now = datetime.now(UTC)
    server.closed = [ClosedRun("CoinsMove", f"workflow-{index}", f"run-{index}", now) for index in range(800)]
    sweeps = recovery_of(database, ceiling=200)

    swept = [await sweeps.sweep() for _ in range(4)]

    assert [sweep.counts[Action.PUBLISH] for sweep in swept] == [200] * 4
    assert len(server.histories) <= 800 + 3 * 20  # plus those that were in flight when the ceiling was reached
    assert [sweep.swept_until is not None for sweep in swept] == [False, False, False, True]
