"""The payment service, and the scenario of the tests without a Temporal server."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from orchestrator.store.core.database import Database
from tests import cast
from tests.external.orchestrators import PaymentRequested
from tests.external.scenario import PaymentScenario
from tests.external.supervisor import Supervisor, payment_service


@pytest.fixture
async def service(tmp_path: Path) -> AsyncGenerator[Supervisor]:
    """A running payment service with an empty book."""
    async with payment_service(tmp_path) as running:
        yield running


@pytest.fixture
async def scenario(database: Database, service: Supervisor) -> PaymentScenario:
    """A thousand coins in box `a` and a payment of ten that has not begun."""
    async with database.transaction() as connection:
        await cast.stock(connection, a=1_000, b=0)
    return PaymentScenario(database, service, PaymentRequested(card="visa", amount=10))
