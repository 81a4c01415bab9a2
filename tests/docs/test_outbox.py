"""The code in docs/outbox.md works with the engine, and its numbers are those of the relay."""

import inspect
from types import ModuleType
from uuid import UUID

import pytest

from orchestrator import Catalog, outbox
from orchestrator.store.outbox import FORWARD_AFTER
from orchestrator.testing import added_events, step_transaction
from orchestrator.worker.relay.limits import RelayLimits
from tests.docs.markdown import Document
from tests.docs.test_locks_and_databases import module

__all__ = ["module"]
OUTBOX = Document("docs/outbox.md")
ORDER = UUID(int=1)


@pytest.mark.parametrize("module", [OUTBOX], indirect=True)
async def test_events_are_added_in_a_step_and_outside_of_a_saga(module: ModuleType) -> None:
    catalog = Catalog.of(orchestrators=[module.StockKeeping], operations=[module.count_stock])

    async with step_transaction(event_id="placed") as tx:
        await module.place(tx, ORDER, "olena")
        await module.count_stock.body(tx, ORDER)
        added = await added_events(tx)

    assert [envelope.event_type for envelope in added] == ["ORDER_PLACED", "ORDER_CANCELLED"]
    assert added[1].causation_id == "placed"
    for name in ("ORDER_PLACED", "ORDER_CANCELLED"):
        assert [listener.__name__ for listener in catalog.listeners_of(name)] == ["StockKeeping"]


def test_its_options_and_numbers_are_those_of_the_code() -> None:
    limits, words = RelayLimits(), {3: "three", 5: "five", 1: "second", 60: "minute"}

    options = [parameter.name for parameter in inspect.signature(outbox.add).parameters.values()][2:]
    assert [row[0].strip("`") for row in OUTBOX.table("option")] == options
    text = " ".join(OUTBOX.text.split())
    assert f"{words[FORWARD_AFTER.seconds]} seconds later a relay looks" in text
    assert f"A claim runs out after {limits.lease.seconds} seconds" in text
    assert f"at least every {words[limits.last_look.seconds]}" in text
    assert f"half a second growing to {limits.last_wait.seconds}" in text
    assert f"every {words[limits.newer_wait.seconds]} seconds" in text
    assert f"known to any worker for {limits.unknown_for.seconds} seconds" in text
    assert f"more than a {words[limits.late.seconds]} is logged by the worker" in text
    assert limits.first_wait.total_seconds() == 0.5
