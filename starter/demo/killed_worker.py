"""The demo's last scene: a worker is killed in the middle of a saga, and the next worker finishes the saga."""

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from orchestrator.cli.embedded.script import GaveUp
from orchestrator.client import SagaHandle
from orchestrator.protocol.commands import Phase
from starter.demo.run import DemoRun, describe_transfer
from starter.survival import UnfinishedSaga, describe_wait, unfinished_sagas, wait_for_money_in_transit

_AT_ONCE = 12
"""Transfers that are in flight when the worker is killed."""
_ATTEMPTS = 4
"""The scene is repeated if by chance every saga was finished before the kill."""


async def survive_a_kill(run: DemoRun) -> None:
    """Kill the worker with SIGKILL in the middle of a saga, and wait until the saga has finished."""
    for attempt in range(1, _ATTEMPTS + 1):
        handles = await _publish_transfers(run, f"at-once-{attempt}" if attempt > 1 else "at-once")
        event_ids = list(handles)
        await wait_for_money_in_transit(run.database, event_ids, seconds=5)
        await run.worker.kill()
        killed_at = monotonic()
        if unfinished := await unfinished_sagas(run.database, event_ids):
            break
        run.show.step("All of them were finished before the kill came; once more")
        run.worker = await run.stack.start_worker()
        await run.check_all_completed(handles)
    else:
        raise GaveUp(f"{_ATTEMPTS} times all sagas were finished before the worker could be killed. Try again.")
    await _watch_survivor(run, handles, unfinished, killed_at)


async def _publish_transfers(run: DemoRun, name: str) -> dict[str, SagaHandle[Any]]:
    pairs = (("olena-usd", "olena-eur"), ("taras-kwd", "taras-jpy"), ("olena-jpy", "olena-usd"))
    events = [await run.transfer(*pairs[number % len(pairs)]) for number in range(_AT_ONCE)]
    run.show.step(f"{_AT_ONCE} transfers published at once, to be interrupted ...")
    handles = await asyncio.gather(
        *(
            run.publish(event, run.event_id(f"{name}-{number:02}"), describe_transfer(event), in_crowd=True)
            for number, event in enumerate(events, 1)
        )
    )
    return {handle.event_id: handle for handle in handles}


async def _watch_survivor(
    run: DemoRun, handles: Mapping[str, SagaHandle[Any]], unfinished: Sequence[UnfinishedSaga], killed_at: float
) -> None:
    survivor = unfinished[0]
    handle = handles[survivor.event_id]
    run.links["survived"] = handle
    total = len((await run.saga(run.links["completed"].event_id)).steps)
    where = ": the money has left one account and not reached the other" if survivor.has_money_in_transit else ""
    midway = "1 saga is" if len(unfinished) == 1 else f"{len(unfinished)} sagas are"
    run.show.good(f"Worker {run.worker.pid} killed with SIGKILL, {midway} in the middle of it")
    run.show.wait(f"{survivor.event_id} has done step {len(survivor.done)} of {total}{where}")
    run.show.wait(
        f"Waiting for Temporal to notice: {await describe_wait(run.bus.client, handle.workflow_id, survivor)}"
    )
    run.worker = await run.stack.start_worker()
    run.show.step(f"Another worker is running (process {run.worker.pid})")
    run.check_outcome(await run.outcome(handle), Phase.COMPLETED)
    run.show.good(f"{survivor.event_id} has finished, {monotonic() - killed_at:.1f} s after the kill")
    await run.check_all_completed(handles)
    records = await run.transfer_records(list(handles))
    if records != len(handles):
        raise GaveUp(f"{len(handles)} transfers left {records} records; each must leave one.")
    run.show.good(f"So have the other {len(handles) - 1}: each transfer was done exactly once")
