"""A client process: it publishes its orders until each is accepted, repeats some, and records which were accepted.

Run it as `python -m tests.chaos.client FOLDER NUMBER SEED`; its environment contains Temporal's address.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

from temporalio.service import RPCError

from orchestrator.client import EventBus
from orchestrator.errors import PublishIncomplete, Unreachable
from orchestrator.settings import Settings
from tests.chaos.bank import CATALOG
from tests.chaos.load import Order, accepted_by, read_orders

_BATCH = 20
_RETRY_INTERVAL = 0.2
_REPEATED = 0.1
_WINDOW = 0.5
"""Orders that are due within so many seconds are shuffled."""


class Publisher:
    """Publishes one client's orders.

    Args:
        bus: the bus that publishes them.
        record: a file descriptor; an accepted event's id is written to it and synced before anything else happens.
        random: shuffles the orders and decides which are repeated and which are published in one call.
    """

    def __init__(self, bus: EventBus, record: int, random: Random) -> None:
        self._bus = bus
        self._record = record
        self._random = random
        self._sending: set[asyncio.Task[None]] = set()

    async def publish(self, orders: Sequence[Order]) -> None:
        """Publish all orders, each at its time."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        by_key = {order.event.key for order in orders if order.event.key is not None}
        unkeyed = [order for order in orders if order.event.key is None]
        async with asyncio.TaskGroup() as group:
            for key in by_key:
                group.create_task(self._in_order([order for order in orders if order.event.key == key], began))
            while unkeyed:
                now = loop.time() - began
                due = [order for order in unkeyed if order.at <= now + _WINDOW]
                unkeyed = unkeyed[len(due) :]
                self._random.shuffle(due)
                while due:
                    count = self._random.choice((1, 1, 1, 5, _BATCH))
                    batch, due = due[:count], due[count:]
                    group.create_task(self._until_accepted(batch))
                    if self._random.random() < _REPEATED * 2:
                        group.create_task(self._later(batch))
                await asyncio.sleep(_WINDOW)

    async def _in_order(self, orders: Sequence[Order], began: float) -> None:
        """Publish orders so that each is accepted before the next; those that are due already go into one call."""
        remaining = list(orders)
        while remaining:
            now = asyncio.get_running_loop().time() - began
            due = [order for order in remaining[:_BATCH] if order.at <= now]
            if not due:
                await asyncio.sleep(remaining[0].at - now)
                continue
            remaining = remaining[len(due) :]
            await self._until_accepted(due)
            if self._random.random() < _REPEATED:
                await self._until_accepted([self._random.choice(due)])

    async def _later(self, orders: Sequence[Order]) -> None:
        await asyncio.sleep(self._random.uniform(0, 5))
        repeated = [order for order in orders if self._random.random() < 0.5]
        if repeated:
            await self._until_accepted(repeated)

    async def _until_accepted(self, orders: Sequence[Order]) -> None:
        while True:
            try:
                await self._send(orders)
            except (Unreachable, PublishIncomplete, RPCError, TimeoutError):
                await asyncio.sleep(_RETRY_INTERVAL)
            else:
                break
        os.write(self._record, "".join(f"{order.event_id}\n" for order in orders).encode())
        await asyncio.to_thread(os.fsync, self._record)

    async def _send(self, orders: Sequence[Order]) -> None:
        if len(orders) == 1:
            await self._bus.publish(orders[0].event, event_id=orders[0].event_id)
        else:
            events, event_ids = [order.event for order in orders], [order.event_id for order in orders]
            await self._bus.publish_many(events, event_ids=event_ids)


async def main(folder: Path, number: int, seed: int) -> None:
    """Publish everything."""
    while True:
        try:
            bus = await EventBus.connect(Settings(), catalog=CATALOG)
            break
        except Unreachable:
            await asyncio.sleep(_RETRY_INTERVAL)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    record = os.open(accepted_by(folder, number), flags, 0o644)
    try:
        await Publisher(bus, record, Random(f"client/{seed}/{number}")).publish(read_orders(folder, number))
    finally:
        os.close(record)
        await bus.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
