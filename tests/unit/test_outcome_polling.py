"""Outcome polling: all waiting callers share one lookup at a time, and it is repeated after an outage."""

import asyncio
from collections.abc import Callable, Sequence
from uuid import UUID, uuid4

import pytest

from orchestrator import Unreachable
from orchestrator.client.outcomes import polling
from orchestrator.client.outcomes.lookup import LookupUnavailable
from orchestrator.client.outcomes.recorded import RecordedOutcomes
from orchestrator.protocol.commands import Outcome, Phase
from orchestrator.protocol.lookup import Lookup, LookupReply, SagaEntry

ENDED = Outcome(phase=Phase.COMPLETED, event_id="e", content_digest="d", triggering={}, event={})


class Scripted:
    """Tables that answer each lookup with the next line of a script, and repeat the last line."""

    pauses: tuple[float, float] = (0.0, 0.0)
    is_local = False

    def __init__(self, *script: Exception | Sequence[UUID] | None, patience: float = 0.0) -> None:
        self.patience = patience
        self.script = list(script)
        self.asked: list[set[UUID]] = []
        self.given_up = 0
        self.changed = asyncio.Event()

    async def ask(self, lookup: Lookup) -> LookupReply:
        self.asked.append(set(lookup.sagas))
        self.changed.set()
        line = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(line, Exception):
            raise line
        if line is None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.given_up += 1
                raise
        entries = [SagaEntry(saga=key, content_digest="d", outcome=ENDED) for key in line or ()]
        return LookupReply(sagas=tuple(entries))

    async def close(self) -> None:
        """Close nothing."""

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


async def test_waiting_callers_share_a_lookup_and_an_incomplete_one_is_abandoned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(polling, "MINIMUM_LOOKUP_TIME", 0.01)
    first, second, third = uuid4(), uuid4(), uuid4()
    tables = Scripted(None, [first, second, third], patience=20.0)
    outcomes = RecordedOutcomes(tables)
    waiting = [asyncio.create_task(outcomes.of(first))]
    await tables.until(lambda: tables.asked == [{first}])

    waiting += [asyncio.create_task(outcomes.of(key)) for key in (second, third, first)]

    assert await asyncio.wait_for(asyncio.gather(*waiting), 10) == [ENDED] * 4
    assert tables.asked[:2] == [{first}, {first, second, third}]
    assert tables.given_up == 1


async def test_a_lookup_is_repeated_after_an_outage_and_a_wrong_address_is_raised() -> None:
    key = uuid4()
    tables = Scripted(LookupUnavailable("a restart"), [key])
    assert await asyncio.wait_for(RecordedOutcomes(tables).of(key), 10) == ENDED
    assert tables.asked == [{key}, {key}]

    with pytest.raises(Unreachable, match="wrong address"):
        await asyncio.wait_for(RecordedOutcomes(Scripted(Unreachable("wrong address"))).of(key), 10)


async def test_no_lookup_is_made_without_waiting_callers() -> None:
    key = uuid4()
    tables = Scripted(None, [key], patience=20.0)
    outcomes = RecordedOutcomes(tables)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(outcomes.of(key), 0.05)
    assert (tables.asked, tables.given_up) == ([{key}], 1)

    assert await asyncio.wait_for(outcomes.of(key), 10) == ENDED


async def test_a_new_caller_is_not_delayed_by_the_pause_for_a_slow_saga() -> None:
    slow, quick = uuid4(), uuid4()
    tables = Scripted([], [quick])
    tables.pauses = (0.0, 60.0)
    outcomes = RecordedOutcomes(tables, lambda: 10_000.0 if tables.asked else 0.0)
    waits_long = asyncio.create_task(outcomes.of(slow))
    await tables.until(lambda: tables.asked == [{slow}])

    assert await asyncio.wait_for(outcomes.of(quick), 10) == ENDED
    waits_long.cancel()


async def test_the_pause_between_lookups_is_a_fraction_of_the_time_that_sagas_take() -> None:
    keys = [uuid4() for _ in range(8)]
    now = 0.0
    asked: list[float] = []

    class Slow(Scripted):
        """Sagas that take ten seconds, on a clock that each lookup advances by a second."""

        async def ask(self, lookup: Lookup) -> LookupReply:
            nonlocal now
            asked.append(now)
            now += 1.0
            self.script = [list(lookup.sagas) if now >= begun + 10.0 else []]
            return await super().ask(lookup)

    tables = Slow([])
    tables.pauses = (0.0, 0.0)
    outcomes = RecordedOutcomes(tables, lambda: now)
    for key in keys:
        begun = now
        await asyncio.wait_for(outcomes.of(key), 10)

    tables.pauses = (0.0, 60.0)
    waiting = asyncio.create_task(outcomes.of(uuid4()))
    await asyncio.sleep(0)
    assert 0.4 < outcomes.pause(False) < 0.6
    now += 1_000.0
    assert outcomes.pause(False) == pytest.approx(50.0)
    waiting.cancel()
