"""`python -m benchmarks.plain_worker`: one worker process of the plain saga.

It reads `TEMPORAL_ADDRESS`, `BENCH_TASK_QUEUE` and `BENCH_DATABASE_URL`, prints `READY`, and runs until SIGTERM.
"""

import asyncio
import os
import signal

from sqlalchemy.ext.asyncio import create_async_engine
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from benchmarks.plain import PlainAtomicTransfer, PlainTransfer
from benchmarks.plain_activities import Activities

READY = "plain worker ready"


async def work() -> None:
    """Run until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    # The same number of connections that one of the engine's workers may have.
    engine = create_async_engine(os.environ["BENCH_DATABASE_URL"], pool_size=10, max_overflow=10)
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"], data_converter=pydantic_data_converter)
    activities = Activities(engine)
    worker = Worker(
        client,
        task_queue=os.environ["BENCH_TASK_QUEUE"],
        workflows=[PlainTransfer, PlainAtomicTransfer],
        activities=[
            activities.withdraw,
            activities.put_back,
            activities.deposit,
            activities.take_back,
            activities.record,
            activities.erase,
            activities.transfer,
        ],
        max_concurrent_activities=100,
    )
    async with worker:
        print(READY, flush=True)
        await stop.wait()
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(work())
