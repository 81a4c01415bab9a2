"""A recovery's work and memory stay bounded, however many sagas are silent or executions were cut off."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import insert, update
from temporalio.api.enums.v1 import WorkflowExecutionStatus

from orchestrator.protocol.envelope import saga_id, wrap
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga
from orchestrator.worker.recovery import limits as sweeping
from orchestrator.worker.recovery import stalled_sagas as silent_sagas
from orchestrator.worker.recovery import sweep as recovery
from orchestrator.worker.recovery import undelivered_messages as left_messages
from orchestrator.worker.recovery.closed_runs import ClosedRun, Message
from orchestrator.worker.recovery.execution_status import ExecutionStatus
from orchestrator.worker.recovery.limits import Limits
from orchestrator.worker.recovery.sweep import Recovery
from orchestrator.workflow.system.recovery import Action
from tests.cast_events import CoinsMoveRequested
from tests.house import CATALOG

MOVE = CoinsMoveRequested(source="a", target="b", coins=10)
RUNNING = WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING


class Server:
    """Stands in for Temporal: it counts requests, and knows which executions run."""

    def __init__(self) -> None:
        self.described: list[str] = []
        self.histories: list[str] = []
        self.running: set[str] = set()
        self.driven: list[str] = []
        self.closed: list[ClosedRun] = []

    async def status_of_execution(self, _client: Any, workflow_id: str, *_: Any) -> ExecutionStatus:
        """A description of an execution."""
        self.described.append(workflow_id)
        return (
            ExecutionStatus(workflow_id, status=RUNNING)
            if workflow_id in self.running
            else ExecutionStatus(workflow_id)
        )

    async def ensure(self, _client: Any, orchestrator: str, envelope: Any, *_: Any, **__: Any) -> None:
        """A start of an execution."""
        self.driven.append(envelope.event_id)
        self.running.add(f"{orchestrator}/event/{envelope.event_id}")

    async def closed_abnormally(self, *_: Any, **__: Any) -> AsyncIterator[ClosedRun]:
        """The list of executions that were cut off."""
        for run in self.closed:
            yield run

    async def messages_of(self, _client: Any, run: ClosedRun) -> list[Message]:
        """An execution's history: the event that it was started with."""
        self.histories.append(run.run_id)
        return [Message("start", 1, wrap(MOVE, event_id=run.run_id, source="tests").text.encode())]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """In place of the real one, which could not start 20,000 executions in a test's time."""
    server = Server()

    async def newest_close(_client: Any) -> datetime:
        return datetime.now(UTC)

    monkeypatch.setattr(silent_sagas, "status_of_execution", server.status_of_execution)
    monkeypatch.setattr(left_messages, "status_of_execution", server.status_of_execution)
    monkeypatch.setattr(left_messages, "messages_of", server.messages_of)
    monkeypatch.setattr(sweeping, "ensure_own_execution", server.ensure)
    monkeypatch.setattr(recovery, "closed_abnormally", server.closed_abnormally)
    monkeypatch.setattr(recovery, "newest_close", newest_close)
    return server


def recovery_of(database: Database, **limits: Any) -> Recovery:
    """A recovery whose cluster is nobody's."""

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


async def silent(database: Database, number: int) -> list[str]:
    """Sagas that were silent for hours, the longest silent first; returns their event ids."""
    now = datetime.now(UTC)
    template = wrap(MOVE, event_id="EVENT-ID", source="tests").text
    ids = [f"event-{place}" for place in range(number)]
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
            "progressed_at": now - timedelta(hours=10) + timedelta(seconds=place / 10),
        }
        for place, event_id in enumerate(ids)
    ]
    async with database.transaction() as connection:
        for first in range(0, number, 2_000):
            await connection.execute(insert(saga), rows[first : first + 2_000])
    return ids


async def test_of_20_000_silent_sagas_the_server_is_asked_about_no_more_than_the_ceiling(
    database: Database, server: Server
) -> None:
    await silent(database, 20_000)

    swept = await recovery_of(database, ceiling=500).sweep()

    assert (swept.counts[Action.RESUME], len(server.driven)) == (500, 500)
    assert len(server.described) <= 500 + 20  # those that were being looked at as it was reached
    assert swept.looked_at == len(server.described)
    assert len(swept.findings) <= 520
    assert swept.has_more


async def test_sweeps_come_to_every_saga_though_thousands_before_them_are_alive(
    database: Database, server: Server
) -> None:
    ids = await silent(database, 3_000)
    server.running = {f"CoinsMove/event/{event_id}" for event_id in ids[:2_900]}
    sweeps = recovery_of(database, looks=1_000)

    swept = [await sweeps.sweep() for _ in range(3)]

    assert [one.looked_at for one in swept] == [1_000, 1_000, 1_000]
    assert sorted(server.driven) == sorted(ids[2_900:])
    assert (await sweeps.sweep()).alive == 1_000  # from the beginning


async def test_a_sweep_that_began_in_the_middle_goes_on_with_the_first_ones(database: Database, server: Server) -> None:
    ids = await silent(database, 1_000)
    sweeps = recovery_of(database, ceiling=600)
    await sweeps.sweep()
    server.running.clear()
    server.driven.clear()

    swept = await sweeps.sweep()

    assert set(ids[620:]) < set(server.driven)
    assert (swept.counts[Action.RESUME], swept.has_more) == (600, True)


async def test_findings_are_counted_and_only_the_first_are_kept(database: Database, server: Server) -> None:
    await silent(database, 300)
    async with database.transaction() as connection:
        await connection.execute(update(saga).values(orchestrator="Unheard"))

    swept = await recovery_of(database, findings=50).sweep(dry_run=True)

    assert (swept.counts[Action.LEAVE], len(swept.findings)) == (300, 50)
    assert len(server.described) == 300


async def test_no_history_is_read_after_the_ceiling_and_none_that_was_settled_is_read_again(
    database: Database, server: Server
) -> None:
    now = datetime.now(UTC)
    server.closed = [ClosedRun("CoinsMove", f"workflow-{place}", f"run-{place}", now) for place in range(800)]
    sweeps = recovery_of(database, ceiling=200)

    swept = [await sweeps.sweep() for _ in range(4)]

    assert [one.counts[Action.PUBLISH] for one in swept] == [200] * 4
    assert len(server.histories) <= 800 + 3 * 20  # those that were being read as the ceiling was reached
    assert [one.swept_until is not None for one in swept] == [False, False, False, True]
