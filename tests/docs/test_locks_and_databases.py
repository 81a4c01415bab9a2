"""The code in docs/locks.md and docs/several-databases.md works with the engine."""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from sqlmodel import SQLModel, select

from events.account import MoneyTransferRequested
from orchestrator import Catalog, Operation
from orchestrator.definition.checks.databases import problems_of_databases
from orchestrator.protocol.lock_keys import KEY_LIMIT, KEYS_LIMIT, lock_keys_of
from orchestrator.settings import Settings
from orchestrator.testing import RecordingSaga, step_transaction
from tests.docs.markdown import Document

LOCKS = Document("docs/locks.md")
SEVERAL = Document("docs/several-databases.md")


@pytest.fixture
def module(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The document's Python as a module."""
    document: Document = request.param
    [block] = [block for block in document.blocks if block.language == "python"]
    name = f"from_{Path(document.path).stem.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(block.text)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    before = set(SQLModel.metadata.tables)
    yield importlib.import_module(name)
    sys.modules.pop(name)
    for table in set(SQLModel.metadata.tables) - before:
        SQLModel.metadata.remove(SQLModel.metadata.tables[table])


@pytest.mark.parametrize("module", [LOCKS], indirect=True)
def test_the_orchestrator_with_locks_is_valid_and_has_these_keys(module: ModuleType) -> None:
    catalog = Catalog.of(orchestrators=[module.CarefulTransfer])
    event = MoneyTransferRequested.example()
    assert event is not None

    keys = lock_keys_of(catalog.orchestrators["CarefulTransfer"], event)

    assert keys.ordering_key == f"user/{event.user_id}"
    assert set(keys.keys) == {
        f"account/{event.from_account_id}",
        f"account/{event.to_account_id}",
        f"user/{event.user_id}",
    }
    assert f"1 to {KEY_LIMIT} characters" in LOCKS.text
    assert f"at most {KEYS_LIMIT}" in LOCKS.text


@pytest.mark.parametrize("module", [LOCKS], indirect=True)
async def test_the_orchestrator_with_locks_completes(module: ModuleType) -> None:
    event = MoneyTransferRequested.example()

    completed = await module.CarefulTransfer().handle(event, RecordingSaga())

    assert (completed.left, completed.arrived) == (event.amount, event.amount)


@pytest.mark.parametrize("module", [SEVERAL], indirect=True)
async def test_the_operation_with_its_own_database_is_valid_and_is_done_and_undone(module: ModuleType) -> None:
    remind: Operation[..., object] = module.remind
    reminders = module.Reminder
    catalog = Catalog.of(orchestrators=[], operations=[remind])
    [databases] = re.findall(r"`ORCHESTRATOR_DATABASES='(.*?)'`", SEVERAL.text, re.S)
    settings = Settings(databases=json.loads(databases))

    tables = SQLModel.metadata
    assert list(problems_of_databases(catalog.operations.values(), tables, settings.databases)) == []
    assert len(list(problems_of_databases(catalog.operations.values(), tables, ()))) == 2

    async with step_transaction() as tx:
        key = await remind.body(tx, "call home")
        await tx.flush()
        assert [reminder.text for reminder in await tx.exec(select(reminders))] == ["call home"]
        await module.forget(tx, key)
        assert (await tx.exec(select(reminders))).all() == []
