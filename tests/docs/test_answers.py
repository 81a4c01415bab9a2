"""docs/answers.md is true: its code runs, its command prints what is shown, and its numbers are right."""

import asyncio
from pathlib import Path
from types import ModuleType

import pytest
from temporalio.client import Client

from events.identity import AccountId
from orchestrator import EventBus
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.worker.lookup import CONCURRENT_LOOKUPS
from orchestrator.workflow.system.lookup import LOOKUP_TIMEOUT
from tests.app.running import open_books
from tests.app.samples import an_account
from tests.cli.shell import Shell
from tests.docs.markdown import Document
from tests.docs.project import missing_from

ANSWERS = Document("docs/answers.md")


async def test_its_code_runs_and_its_command_prints_what_is_shown(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    [block] = [block for block in ANSWERS.blocks if block.language == "python"]
    example = ModuleType("answers")
    exec(compile(block.text, "docs/answers.md", "exec"), example.__dict__)
    [command] = ANSWERS.commands

    async with open_books(client, database) as books:
        house = books.house
        worker_bus = EventBus(house.client, house.catalog, task_queue=house.task_queue)
        await example.publish_and_wait(house.bus, an_account(account_id=AccountId("olena-travel")))
        for bus in (house.bus, worker_bus):
            assert await example.ask_later(bus) == "olena-travel"
        opened = await example.listen(worker_bus, an_account(account_id=AccountId("olena-skis")))
        assert opened.account_id == AccountId("olena-skis")
        monkeypatch.setenv("TEMPORAL_ADDRESS", client.service_client.config.target_host)
        monkeypatch.setenv("ORCHESTRATOR_TASK_QUEUE", house.task_queue)
        tent = an_account(account_id=AccountId("olena-tent"))
        assert await asyncio.to_thread(example.from_a_script, tent) == "olena-tent"
        shell = Shell({"ORCHESTRATOR_DATABASE_URL": database.url.render_as_string(hide_password=False)})
        ran = await shell.run(*command.line.split()[1:])

    assert Path(command.line.split()[0]).name == "orchestrator"
    assert missing_from(ran.out, command) is None, str(ran)


def test_its_numbers_are_those_of_the_engine() -> None:
    assert Settings.model_fields["retention"].default == 90
    assert "`ORCHESTRATOR_RETENTION` days after the saga's end: 90 by default" in ANSWERS.text
    assert CONCURRENT_LOOKUPS == 20
    assert LOOKUP_TIMEOUT.total_seconds() == 20
    assert "takes at most 20 seconds" in " ".join(ANSWERS.text.split())
    assert "twenty such clients" in ANSWERS.text
