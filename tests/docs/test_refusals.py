"""docs/refusals.md is true: its code runs, and its bounds are the engine's."""

import importlib
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client

from orchestrator import Catalog
from orchestrator.store.core.database import Database
from orchestrator.values.details import DETAILS_LIMIT, DETAILS_NESTING
from tests.docs.markdown import Document
from tests.house import open_house

REFUSALS = Document("docs/refusals.md")


async def test_its_code_runs(
    client: Client, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [block] = REFUSALS.of("python")
    (tmp_path / "refusals_of_the_page.py").write_text(block.text)
    monkeypatch.syspath_prepend(tmp_path)  # pyright: ignore[reportUnknownMemberType]
    shown: Any = importlib.import_module("refusals_of_the_page")
    catalog = Catalog.of(orchestrators=[shown.Purchase], operations=[shown.pay])

    async with open_house(client, database, catalog, task_queue=f"refusals-{uuid4()}") as house:
        prices = {price: await shown.buy(house.bus, price) for price in (20, 25, 27)}

    assert prices == {20: "bought", 25: "bought", 27: "7 EUR are missing"}


def test_its_bounds_are_the_engines() -> None:
    assert (DETAILS_LIMIT, DETAILS_NESTING) == (16 * 1024, 50)
    assert "at most 16 KiB and are nested at most 50 levels deep" in REFUSALS.text
