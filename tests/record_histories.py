"""Records the histories that replay tests guard: `python -m tests.record_histories`, at a release, into a new folder.

Never edit or re-record an old one, because executions with that history may still be running somewhere.
"""

import asyncio
import json
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from events.account import MoneyTransferRequested
from events.identity import AccountId, UserId
from events.money import Currency, Money
from orchestrator.client import SagaHandle
from orchestrator.definition.catalog import Catalog
from orchestrator.protocol.commands import FinishCommand
from orchestrator.store.core.database import Database
from orchestrator.store.migrations.migrate import migrate
from orchestrator.store.saga.finish import finish_saga
from orchestrator.store.saga.opening import open_sagas
from orchestrator.worker.waking import SignalWaker
from starter.seed import seed
from starter.tables import create_tables
from tests import swarm
from tests.cast import Script, fails, refuses, tables
from tests.cast_events import ApprovalRequested, Approved, CoinsMoveRequested, NapRequested, ParcelRequested
from tests.house import CATALOG, House, eventually, open_house, opening_of
from tests.orchestrators import Approval

FOLDER = Path(__file__).parent / "histories"
VERSION = "v0.1"


async def main() -> None:
    """Run each saga once on a real server and write its history."""
    binary = shutil.which("temporal", path=str(Path(sys.executable).parent)) or shutil.which("temporal")
    async with await WorkflowEnvironment.start_local(  # pyright: ignore[reportUnknownMemberType]
        dev_server_existing_path=binary, data_converter=pydantic_data_converter
    ) as server:
        await record_money_transfers(server.client)
        await record_cast(server.client)
        await record_partition(server.client)
        await record_partition_of_strangers(server.client)


async def record_money_transfers(client: Client) -> None:
    """Record one saga that completes and one that is undone, both with local activities only."""
    catalog = Catalog.discover(["events", "activities", "workflows"])
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/record.db")
        await migrate(database)
        async with database.transaction() as connection:
            await create_tables(connection)
            await seed(connection, accounts=True)
        async with open_house(client, database, catalog, task_queue="record") as house:
            for name, target in (("completed", "olena-eur"), ("undone", "nobody-has-this")):
                event = MoneyTransferRequested(
                    user_id=UserId("olena"),
                    from_account_id=AccountId("olena-usd"),
                    to_account_id=AccountId(target),
                    amount=Money(amount_minor=100, currency=Currency("USD")),
                    arriving=Money(amount_minor=92, currency=Currency("EUR")),
                )
                [saga] = await house.bus.publish(event, event_id=f"recorded-{name}")
                await record(house, saga, f"money_transfer_{name}")
        await database.close()


async def record_cast(client: Client) -> None:
    """Record what the application's sagas do not have: a hand-over, a wait, and a step stuck past the pivot."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/record.db")
        await migrate(database)
        async with open_house(client, database, CATALOG, task_queue="record-cast") as house:
            Script.before |= {"put": fails(times=4), "write_note": refuses(), "take_out": fails(times=6)}
            [saga] = await house.bus.publish(CoinsMoveRequested(source="a", target="b", coins=10))
            await record(house, saga, "cast_handed_over_and_stuck_in_its_undo")
            Script.clear()
            [saga] = await house.bus.publish(ApprovalRequested(coins=10), event_id="approval")
            await house.bus.send(Approved(coins=10, by="recorder"), to=Approval, triggering_event_id="approval")
            await record(house, saga, "cast_waited")
            [saga] = await house.bus.publish(NapRequested(coins=10, seconds=0.1))
            await record(house, saga, "cast_slept")
            Script.before["deliver"] = fails(times=6)
            [saga] = await house.bus.publish(ParcelRequested(source="a", coins=10))
            await record(house, saga, "cast_past_its_pivot_and_stuck")
        await database.close()


async def record_partition(client: Client) -> None:
    """Record waves, a saga that is postponed and taken up again, a dead letter, and a wait for more messages."""
    async with _swarm_at_home(client, "record-swarm") as house:
        keyed = swarm.SwarmRequested(source="a", target="b", coins=1, key="k")
        Script.before["write_note"] = fails(times=4)
        handles = await house.bus.publish_many([keyed] * 60)
        for [saga] in handles:
            await saga.outcome()
        await client.get_workflow_handle(handles[0][0].workflow_id).signal("event", "garbage")
        [saga] = await house.bus.publish(keyed)
        await record(house, saga, "swarm_partition")


async def record_partition_of_strangers(client: Client) -> None:
    """Record a partition that takes over a saga because of a wake signal and then continues as new."""
    async with _swarm_at_home(client, "record-strangers") as house:
        keyed = swarm.SwarmRequested(source="a", target="b", coins=1, key="k")
        holder = opening_of(swarm.Swarm, keyed, "holder")
        async with house.database.transaction() as connection:
            await open_sagas(connection, [holder], swarm.CATALOG, begins=True)
        [orphan] = await house.bus.publish(keyed)

        async def is_opened() -> bool:
            return len(await house.sagas()) == 2

        await eventually(is_opened, "the saga waits behind the holder of its lock")
        await client.get_workflow_handle(orphan.workflow_id).terminate()
        [saga] = await house.bus.publish(keyed)
        await client.get_workflow_handle(saga.workflow_id).signal("wake", "nobody")
        ended = FinishCommand(opening=holder, completed={"coins": 1})
        await finish_saga(house.database, swarm.CATALOG, ended, SignalWaker(client))
        await orphan.outcome()
        await record(house, saga, "swarm_strangers_partition")


@asynccontextmanager
async def _swarm_at_home(client: Client, task_queue: str) -> AsyncGenerator[House]:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/record.db")
        await migrate(database, application=tables)
        async with open_house(client, database, swarm.CATALOG, task_queue=task_queue) as house:
            yield house
        Script.clear()
        await database.close()


async def record(house: House, saga: SagaHandle[Any], name: str) -> None:
    """Wait until a saga has ended, then write its history."""
    await saga.outcome()
    handle = house.client.get_workflow_handle(saga.workflow_id)
    history = json.loads((await handle.fetch_history()).to_json())
    # The recording machine's name does not belong in the file.
    text = re.sub(r'"\d+@[^"]+"', '"recorder"', json.dumps(history, indent=1))
    text = re.sub(r'"stackTrace": "(?:[^"\\]|\\.)*"', '"stackTrace": ""', text)
    file = FOLDER / VERSION / f"{name}.json"
    await asyncio.to_thread(file.write_text, f"{text}\n")
    print(file)


if __name__ == "__main__":
    asyncio.run(main())
