"""Retries that an operation declares: their waits, their number, and the errors that are never retried."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client

from orchestrator import SagaFailed
from orchestrator.cli.diagnosis.blocked_reason import reason_of
from orchestrator.drive.driver import Driver
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.messages.envelope import wrap
from orchestrator.protocol.names import own_workflow_id
from orchestrator.store.core.database import Database
from orchestrator.store.saga.steps import StoreSteps
from tests.house import House, eventually, new_id, open_house
from tests.retrying import CATALOG, CardBlocked, Loan, LoanRequested, SharedLoan, SharedLoanRequested, Trials

TIMEOUT = timedelta(seconds=60)
PLACEMENTS = pytest.mark.parametrize("placement", ["own execution", "partition"])


@pytest.fixture
async def house(database: Database, client: Client) -> AsyncGenerator[House]:
    """A house of its own."""
    Trials.clear()
    async with open_house(client, database, CATALOG, task_queue=f"retrying-{uuid4()}") as made:
        yield made


async def lend(house: House, placement: str, way: str) -> Any:
    """Drive a saga to its end in a placement."""
    if placement == "partition":
        return await house.bus.execute(SharedLoan, SharedLoanRequested(way=way), timeout=TIMEOUT)
    return await house.bus.execute(Loan, LoanRequested(way=way), timeout=TIMEOUT)


def runs(name: str) -> int:
    """How often an operation has run."""
    return len(Trials.runs.get(name, []))


@PLACEMENTS
async def test_a_step_fails_for_good_after_its_attempts(house: House, placement: str) -> None:
    Trials.errors["lend"] = [RuntimeError("first"), RuntimeError("last")]

    with pytest.raises(SagaFailed) as told:
        await lend(house, placement, "lend")

    assert told.value.code == "operation.failed"
    assert told.value.message == "step 1, retrying.lend: RuntimeError: last; given up after 3 attempts"
    # The attempt in the wave comes before those of the own execution, which begins to count.
    assert runs("lend") == (4 if placement == "partition" else 3)


@PLACEMENTS
async def test_a_step_with_one_attempt_has_one(house: House, placement: str) -> None:
    Trials.errors["lend_once"] = [RuntimeError("no")]

    with pytest.raises(SagaFailed, match="RuntimeError: no; given up after 1 attempt") as told:
        await lend(house, placement, "once")

    assert told.value.code == "operation.failed"
    assert runs("lend_once") == 1


@PLACEMENTS
async def test_an_error_that_is_never_retried_ends_the_step_at_once(house: House, placement: str) -> None:
    Trials.errors["lend"] = [ExceptionGroup("several", [ValueError("x"), CardBlocked("stolen")])]

    with pytest.raises(SagaFailed, match=r"stolen.*; retrying\.lend never retries this error") as told:
        await lend(house, placement, "lend")

    assert told.value.code == "operation.failed"
    assert runs("lend") == 1


@PLACEMENTS
async def test_of_an_atomic_step_the_strictest_holds(house: House, placement: str) -> None:
    Trials.errors["lend"] = [RuntimeError("no")]

    with pytest.raises(SagaFailed, match="given up after 3 attempts"):
        await lend(house, placement, "atomic")

    first, *_, last = Trials.runs["lend"][-3:]
    assert last - first >= 0.3 + 0.5, "the longest waits of its operations"


@PLACEMENTS
async def test_the_declared_waits_come_between_the_attempts(house: House, placement: str) -> None:
    Trials.errors["lend_patiently"] = [RuntimeError("no")]
    Trials.succeeds_after["lend_patiently"] = 4

    await lend(house, placement, "patiently")

    times = Trials.runs["lend_patiently"]
    waits = [later - earlier for earlier, later in pairwise(times)]
    if placement == "partition":
        del waits[0]  # the wave hands over at once
    assert all(waited >= declared for waited, declared in zip(waits, (0.3, 0.5, 0.5), strict=False)), waits


async def test_the_next_attempt_and_how_many_there_are_is_shown_meanwhile(house: House) -> None:
    Trials.errors["lend_slowly"] = [RuntimeError("no")]
    event_id = new_id()
    [saga] = await house.bus.publish(LoanRequested(way="slowly"), event_id=event_id)
    shown: list[str] = []

    async def is_waiting() -> bool:
        reason = await reason_of(house.client, own_workflow_id("Loan", event_id))
        shown[:] = [reason.sentence if reason else ""]
        return "attempt 1 of 2" in shown[0]

    await eventually(is_waiting, "its first attempt has failed")
    with pytest.raises(SagaFailed, match="given up after 2 attempts"):
        await saga.result(timeout=TIMEOUT)

    assert "retrying.lend_slowly fails, attempt 2, next in " in shown[0]
    assert "RuntimeError: no; attempt 1 of 2" in shown[0]


async def test_past_the_pivot_nothing_is_given_up(house: House) -> None:
    Trials.errors["ask"] = [CardBlocked("stolen")]
    Trials.succeeds_after["ask"] = 6

    await lend(house, "own execution", "past pivot")

    assert runs("ask") == 7
    [row] = await house.sagas()
    assert (row.phase, row.stuck_step) == ("completed", None)


async def test_a_compensation_has_its_own_waits_and_is_retried_until_it_succeeds(house: House) -> None:
    Trials.errors["take_back"] = [RuntimeError("no")]
    Trials.succeeds_after["take_back"] = 2

    with pytest.raises(SagaFailed, match=r"loan\.refused"):
        await lend(house, "own execution", "refused")

    first, second, third = Trials.runs["take_back"]
    assert second - first >= 0.3
    assert third - second >= 0.5


async def test_an_external_call_that_failed_for_good_and_has_happened_is_undone(house: House) -> None:
    Trials.errors["charge"] = [CardBlocked("stolen")]

    with pytest.raises(SagaFailed, match="never retries this error"):
        await lend(house, "own execution", "external")

    assert (runs("charge"), runs("refund")) == (1, 1)


async def test_a_second_driver_does_the_step_while_the_first_waits_for_its_last_attempt(house: House) -> None:
    event, event_id = LoanRequested(way="slowly"), new_id()
    Trials.errors["lend_slowly"] = [RuntimeError("no")]
    Trials.succeeds_after["lend_slowly"] = 1
    [saga] = await house.bus.publish(event, event_id=event_id)

    async def has_failed() -> bool:
        return runs("lend_slowly") == 1

    await eventually(has_failed, "the first attempt")
    envelope = wrap(event, event_id=event_id, source="tests")
    other = Driver(Loan, event, envelope, StoreSteps(house.database, CATALOG))

    assert (await other.drive()).phase is Phase.COMPLETED
    await saga.result(timeout=TIMEOUT)
    assert runs("lend_slowly") == 2


async def test_a_second_driver_that_comes_after_the_last_attempt_follows_the_undo(house: House) -> None:
    event, event_id = LoanRequested(way="once"), new_id()
    Trials.errors["lend_once"] = [RuntimeError("no")]
    [saga] = await house.bus.publish(event, event_id=event_id)
    with pytest.raises(SagaFailed):
        await saga.result(timeout=TIMEOUT)
    Trials.clear()
    envelope = wrap(event, event_id=event_id, source="tests")

    outcome = await Driver(Loan, event, envelope, StoreSteps(house.database, CATALOG)).drive()

    assert (outcome.phase, outcome.error_code) == (Phase.FAILED, "operation.failed")
    assert runs("lend_once") == 0
