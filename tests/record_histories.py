"""Records the histories that replay tests guard: `python -m tests.record_histories`, at a release, into a new folder.

Never edit or re-record an old one: executions like it may still be running somewhere.
"""

import asyncio
import contextlib
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

from temporalio.client import WorkflowFailureError
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from events.account import MoneyTransferRequested
from events.identity import AccountId, UserId
from events.money import Currency, Money
from orchestrator.catalog import Catalog
from orchestrator.store.database import Database
from orchestrator.store.migrate import migrate
from starter.seed import seed
from starter.tables import create_tables
from tests.house import open_house

FOLDER = Path(__file__).parent / "histories"
VERSION = "v0.1"


async def main() -> None:
    """Run each saga once on a real server and write what happened."""
    binary = shutil.which("temporal", path=str(Path(sys.executable).parent)) or shutil.which("temporal")
    catalog = Catalog.discover(["events", "activities", "workflows"])
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/record.db")
        await migrate(database)
        async with database.transaction() as connection:
            await create_tables(connection)
            await seed(connection, accounts=True)
        async with (
            await WorkflowEnvironment.start_local(  # pyright: ignore[reportUnknownMemberType]
                dev_server_existing_path=binary, data_converter=pydantic_data_converter
            ) as server,
            open_house(server.client, database, catalog, task_queue="record") as house,
        ):
            for name, target in (("completed", "olena-eur"), ("undone", "nobody-has-this")):
                event = MoneyTransferRequested(
                    user_id=UserId("olena"),
                    from_account_id=AccountId("olena-usd"),
                    to_account_id=AccountId(target),
                    amount=Money(amount_minor=100, currency=Currency("USD")),
                    arriving=Money(amount_minor=92, currency=Currency("EUR")),
                )
                [saga] = await house.bus.publish(event, event_id=f"recorded-{name}")
                with contextlib.suppress(WorkflowFailureError):
                    await saga.outcome()
                handle = server.client.get_workflow_handle(saga.workflow_id)
                history = json.loads((await handle.fetch_history()).to_json())
                file = FOLDER / VERSION / f"money_transfer_{name}.json"
                file.parent.mkdir(parents=True, exist_ok=True)
                # Which machine recorded it is nobody's business.
                text = re.sub(r'"\d+@[^"]+"', '"recorder"', json.dumps(history, indent=1))
                text = re.sub(r'"stackTrace": "(?:[^"\\]|\\.)*"', '"stackTrace": ""', text)
                file.write_text(f"{text}\n")
                print(file)
        await database.close()


if __name__ == "__main__":
    asyncio.run(main())
