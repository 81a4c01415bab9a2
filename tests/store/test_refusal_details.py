"""A refusal's details: recorded with the refusal, the same for every driver, and part of the failed event."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from orchestrator import (
    Catalog,
    Contract,
    DomainEvent,
    ExternalCall,
    FailureEvent,
    Orchestrator,
    Refused,
    Saga,
    Transaction,
    external_operation,
    operation,
)
from orchestrator.drive.driver import Driver
from orchestrator.event import read_details
from orchestrator.protocol.commands import FinishCommand, FinishReply, Outcome, Phase
from orchestrator.protocol.messages.envelope import OUTCOME_SIZE_LIMIT, canonical, read, wrap
from orchestrator.protocol.messages.unwrapping import unwrap
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga, saga_outbox, saga_step
from orchestrator.store.retention import purge_some
from orchestrator.store.saga.steps import StoreSteps
from tests.cast import Script, put, take
from tests.house import rows


class Shortfall(Contract):
    """What is missing."""

    missing: int


class GiftRequested(DomainEvent):
    """Ask for coins that are not there."""

    way: str


class GiftCompleted(DomainEvent):
    """Given."""

    missing: int


class GiftFailed(FailureEvent):
    """Not given."""


def refuse() -> None:
    """Refuse, and count how often."""
    Script.runs.append("refuse")
    raise Refused("box.too_few", "7 coins are missing", Shortfall(missing=7))


@operation(irreversible="a gift")
async def give(tx: Transaction) -> None:
    """Refuse."""
    refuse()


@external_operation(irreversible="a gift")
async def give_outside(call: ExternalCall) -> None:
    """Refuse."""
    refuse()


class Gift(Orchestrator[GiftRequested, GiftCompleted, GiftFailed]):
    """Refused in a way that the event names."""

    async def handle(self, event: GiftRequested, saga: Saga) -> GiftCompleted:
        """Take, and be refused."""
        await saga.execute(take("a", 1))
        match event.way:
            case "handle":
                refuse()
            case "atomic":
                await saga.execute_atomically(put("b", 1), give())
            case "external":
                await saga.execute(give_outside())
            case "caught":
                try:
                    await saga.execute(give())
                except Refused as refusal:
                    shortfall = refusal.details_as(Shortfall)
                    return GiftCompleted(missing=0 if shortfall is None else shortfall.missing)
            case _:
                await saga.execute(give())
        return GiftCompleted(missing=0)


CATALOG = Catalog.of(orchestrators=[Gift], operations=[take, put, give, give_outside])


async def drive(database: Database, way: str) -> Outcome:
    """Drive a saga of that way, for the first time or again."""
    event = GiftRequested(way=way)
    envelope = wrap(event, event_id=way, source="tests")
    return await Driver(Gift, event, envelope, StoreSteps(database, CATALOG)).drive()


@pytest.mark.parametrize("way", ["operation", "atomic", "external", "handle"])
async def test_the_failed_event_has_them_and_a_repeat_is_told_the_same(stocked: Database, way: str) -> None:
    outcome = await drive(stocked, way)
    again = await drive(stocked, way)

    assert (outcome.phase, outcome.error_code) == (Phase.FAILED, "box.too_few")
    assert outcome == again
    assert Script.runs.count("refuse") == 1
    failed = unwrap(read(canonical(outcome.event), limit=OUTCOME_SIZE_LIMIT), GiftFailed)
    assert failed.details_as(Shortfall) == Shortfall(missing=7)
    refused = [row for row in await rows(stocked, saga_step) if row.state == "refused"]
    assert [json.loads(row.error)["details"] for row in refused] == ([] if way == "handle" else [{"missing": 7}])


def fields(outcome: Outcome) -> dict[str, Any]:
    """The fields of an outcome's event."""
    return cast(dict[str, Any], outcome.event["data"])


async def test_a_driver_that_resumes_reads_them_from_the_steps_row(stocked: Database) -> None:
    """The first driver dies between the refusal and its end."""
    event = GiftRequested(way="caught")
    envelope = wrap(event, event_id="caught", source="tests")

    class Dying(StoreSteps):
        async def finish(self, command: FinishCommand) -> FinishReply:
            raise RuntimeError("the driver dies")

    with pytest.raises(RuntimeError, match="the driver dies"):
        await Driver(Gift, event, envelope, Dying(stocked, CATALOG)).drive()
    outcome = await drive(stocked, "caught")

    assert Script.runs.count("refuse") == 1
    assert (outcome.phase, fields(outcome)) == (Phase.COMPLETED, {"missing": 7})


async def test_a_refusal_without_them_leaves_the_field_out(stocked: Database) -> None:
    async def act(tx: Transaction) -> None:
        raise Refused("box.refused", "no")

    Script.before["take"] = act

    outcome = await drive(stocked, "operation")

    assert fields(outcome)["message"] == "no"
    assert "details" not in fields(outcome)
    assert "details" not in json.loads((await rows(stocked, saga_outbox))[0].envelope)["data"]


async def test_retention_deletes_them(stocked: Database) -> None:
    await drive(stocked, "operation")
    [before] = await rows(stocked, saga)

    await purge_some(Databases.of(stocked), before=datetime.now(UTC) + timedelta(hours=1))

    [row] = await rows(stocked, saga)
    assert read_details(json.loads(before.details), Shortfall) == Shortfall(missing=7)
    assert row.purged_at is not None
    assert "missing" not in f"{row.details}{json.loads(row.outcome)['event']['data'].get('details')}"
