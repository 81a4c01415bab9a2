"""The payment service is killed between charge and reply once per saga; each is charged once, or also refunded once.

`make test` runs a few sagas. For more, run `PAYMENT_SAGAS=100 pytest -s tests/external/test_payments_killed.py`.
"""

import asyncio
import os
import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client
from temporalio.service import RPCError

from orchestrator import Transaction
from orchestrator.client import SagaHandle
from orchestrator.protocol.commands import Phase, SagaRef
from orchestrator.protocol.messages.envelope import saga_id
from orchestrator.store.core.database import Database
from orchestrator.store.external.verification import compensation_key, idempotency_key
from orchestrator.workflow import steps as port
from tests.cast import Script, refuses
from tests.external.orchestrators import PAYMENTS, PaymentRequested
from tests.external.supervisor import Supervisor
from tests.house import House, eventually, new_id, open_house

SAGAS = int(os.environ.get("PAYMENT_SAGAS", "10"))
_CHARGE = 2
_OFTEN = timedelta(milliseconds=200)
"""The longest wait between two attempts; in production it grows to half a minute."""


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits between attempts, because the service restarts at once."""
    for policy in ("_STEP_RETRIES", "_FEW_RETRIES", "_ENDLESS_RETRIES"):
        monkeypatch.setattr(port, policy, replace(getattr(port, policy), maximum_interval=_OFTEN))


@pytest.fixture
async def house(database: Database, client: Client) -> AsyncGenerator[House]:
    """A house with the payment orchestrators and a worker."""
    async with open_house(client, database, PAYMENTS, task_queue=f"payments-{uuid4()}") as house:
        yield house


def ref(event_id: str) -> SagaRef:
    """The reference of an event's saga."""
    return SagaRef(id=saga_id("Payment", event_id), orchestrator="Payment", event_id=event_id)


def struck(service: Supervisor) -> Counter[str]:
    """Number of times that each fault occurred."""
    connection = sqlite3.connect(service.file)
    rows = connection.execute("SELECT fault FROM struck").fetchall()
    connection.close()
    return Counter(fault for (fault,) in rows)


@pytest.mark.timeout(60 + 12 * SAGAS)
async def test_a_service_killed_between_charge_and_reply_charges_once_and_refunds_at_most_once(
    house: House, service: Supervisor
) -> None:
    """Of ten sagas, two are refused after the charge and one is cancelled; each refund kills the service again."""
    ids = [new_id() for _ in range(SAGAS)]
    to_refuse = {event_id for index, event_id in enumerate(ids) if index % 10 in (3, 6)}
    to_cancel = {event_id for index, event_id in enumerate(ids) if index % 10 == 8}

    async def refuse_some(tx: Transaction) -> None:
        if tx.event_id in to_refuse:
            await refuses("note.refused")(tx)

    async def cancel_when_charged(saga: SagaHandle[Any]) -> None:
        key = idempotency_key(ref(saga.event_id), _CHARGE)

        async def charged() -> bool:
            return any(charge["key"] == key for charge in service.entries("charges"))

        await eventually(charged, "the service has charged", within=60 + 10 * SAGAS)
        with suppress(RPCError):  # the execution may have ended
            await house.client.get_workflow_handle(saga.workflow_id).cancel()

    Script.before["write_note"] = refuse_some
    faults = "charges:die refunds:die"
    published = [
        (await house.bus.publish(PaymentRequested(card=f"visa {faults}", amount=1), event_id=event_id))[0]
        for event_id in ids
    ]
    cancelling = [asyncio.create_task(cancel_when_charged(saga)) for saga in published if saga.event_id in to_cancel]
    outcomes = await asyncio.gather(*(saga.outcome() for saga in published))
    await asyncio.gather(*cancelling)

    charges, refunds = (Counter(entry["key"] for entry in service.entries(kind)) for kind in ("charges", "refunds"))
    ends: Counter[tuple[str, int, int]] = Counter()
    for outcome in outcomes:
        saga = ref(outcome.event_id)
        charged = charges.pop(idempotency_key(saga, _CHARGE), 0)
        refunded = refunds.pop(compensation_key(saga, _CHARGE), 0)
        ends[outcome.phase.value, charged, refunded] += 1
    kills = struck(service)
    print(f"\n{SAGAS} sagas, killed {dict(kills)}, {service.deaths} deaths; (end, charged, refunded): {dict(ends)}")

    completed = sum(count for (phase, _, _), count in ends.items() if phase == Phase.COMPLETED.value)
    undone = ("failed", "cancelled")
    allowed = {("completed", 1, 0), *((end, done, done) for end in undone for done in (0, 1))}
    assert set(ends) <= allowed
    assert not charges
    assert not refunds
    assert kills["charges:die"] == SAGAS
    assert sum(count for (phase, _, refunded), count in ends.items() if phase in undone and refunded) > 0
    holdings = await house.holdings()
    assert (holdings.boxes["a"], holdings.notes) == (100 - completed, completed)
    assert len(await house.outbox()) == SAGAS
