"""The recording bus: what code under test publishes is seen, and each saga ends as the test says."""

import asyncio
import json
from collections.abc import Awaitable
from datetime import timedelta

import pytest

from orchestrator import (
    Catalog,
    EventBus,
    EventRejected,
    EventTimeout,
    NotFinished,
    Refused,
    SagaCancelled,
    SagaFailed,
    SagaUnknown,
    Unreachable,
    UsageError,
)
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.messages.envelope import wrap
from orchestrator.testing import RecordingBus, Sent
from orchestrator.testing.bus import Answer
from tests.cast_events import (
    ApprovalRequested,
    Approved,
    CoinsMoveCompleted,
    CoinsMoveFailed,
    CoinsMoveRequested,
    NothingRequested,
)
from tests.orchestrators import Approval, CoinsMove

MOVE = CoinsMoveRequested(source="a", target="b", coins=3)
MOVED = CoinsMoveCompleted(coins=3, note="n")


async def move(bus: EventBus, coins: int, key: str) -> str:
    """Code under test."""
    event = CoinsMoveRequested(source="a", target="b", coins=coins)
    try:
        return (await bus.execute(CoinsMove, event, event_id=key, timeout=timedelta(seconds=5))).note
    except SagaFailed as failed:
        return failed.code
    except NotFinished:
        return "pending"


async def test_code_under_test_gets_the_answer_and_its_event_is_recorded() -> None:
    bus = RecordingBus({CoinsMove: MOVED})

    assert await move(bus, 3, "k-1") == "n"

    assert bus.published == {"k-1": MOVE}


async def test_a_list_has_one_answer_for_each_saga_in_order() -> None:
    answers: list[Answer] = [MOVED, Refused("box.empty", "no coins"), NotFinished("later")]
    bus = RecordingBus({CoinsMove: answers})

    assert [await move(bus, 1, f"k-{number}") for number in range(3)] == ["n", "box.empty", "pending"]
    assert len(answers) == 3
    with pytest.raises(UsageError, match="has no answer left for CoinsMove"):
        await move(bus, 1, "k-3")


async def test_a_function_answers_by_the_event() -> None:
    bus = RecordingBus({CoinsMove: lambda event: CoinsMoveCompleted(coins=event.coins, note=f"of {event.source}")})

    assert (await bus.execute(CoinsMove, MOVE)).note == "of a"


async def test_a_refusal_is_a_failed_saga_with_its_event() -> None:
    bus = RecordingBus({CoinsMove: Refused("box.empty", "no coins")})

    with pytest.raises(SagaFailed) as failed:
        await bus.execute(CoinsMove, MOVE, event_id="k")

    assert isinstance(failed.value.failure, CoinsMoveFailed)
    assert (failed.value.failure.event_id, failed.value.failure.event) == ("k", MOVE.model_dump())


async def test_the_failed_event_has_the_details_of_the_refusal() -> None:
    missing = Refused("box.empty", "no coins", MOVED)
    bus = RecordingBus({CoinsMove: missing})

    with pytest.raises(SagaFailed) as failed:
        await bus.execute(CoinsMove, MOVE)

    assert failed.value.details == missing.details == MOVED.model_dump(mode="json")


async def test_an_outcome_is_what_a_real_handle_returns() -> None:
    bus = RecordingBus({CoinsMove: [MOVED, Refused("box.empty", "no coins")]})
    [first], [second] = await bus.publish_many([MOVE, MOVE], event_ids=["1", "2"])

    completed, failed = await first.outcome(), await bus.saga(CoinsMove, "2").outcome()

    assert (completed.phase, completed.event["type"]) == (Phase.COMPLETED, "COINS_MOVE_COMPLETED")
    assert (failed.phase, failed.error_code, failed.event["type"]) == (Phase.FAILED, "box.empty", "COINS_MOVE_FAILED")
    assert [progress.what async for progress in second.follow()] == ["finish: undone"]
    cancelled = SagaCancelled("saga.cancelled", "by a person", await _failure(second.result()))
    [third] = await RecordingBus({CoinsMove: cancelled}).publish(MOVE)
    assert (await third.outcome()).phase is Phase.CANCELLED


async def _failure(result: Awaitable[object]) -> CoinsMoveFailed:
    with pytest.raises(SagaFailed) as failed:
        await result
    assert isinstance(failed.value.failure, CoinsMoveFailed)
    return failed.value.failure


async def test_a_repeat_begins_no_saga_and_an_id_is_not_used_twice() -> None:
    bus = RecordingBus({CoinsMove: [MOVED]})

    for is_repeat in (False, True):
        [handle] = await bus.publish(MOVE, event_id="k")
        assert handle.is_repeat is is_repeat
        assert await handle.result() == MOVED
    with pytest.raises(EventRejected, match=r"event\.id_reused"):
        await bus.publish(CoinsMoveRequested(source="a", target="b", coins=4), event_id="k")

    assert bus.published == {"k": MOVE}


async def test_events_are_checked_as_the_real_bus_checks_them() -> None:
    bus = RecordingBus({CoinsMove: MOVED})

    with pytest.raises(EventRejected, match=r"event\.no_listener"):
        await bus.publish(NothingRequested(refuse=False))
    with pytest.raises(EventRejected, match=r"event\.invalid_id"):
        await bus.publish(MOVE, event_id="not an id")
    with pytest.raises(EventRejected, match=r"event\.not_cloudevent"):
        await bus.publish_raw(b"{}")
    assert bus.read("COINS_MOVE_REQUESTED", '{"source": "a", "target": "b", "coins": 3}') == MOVE

    assert bus.published == {}


async def test_a_message_of_another_system_is_recorded() -> None:
    bus = RecordingBus({CoinsMove: MOVED})

    await bus.publish_raw(wrap(MOVE, event_id="k", source="bank").text)

    assert bus.published == {"k": MOVE}


async def test_an_error_of_publishing_is_raised_by_publish() -> None:
    bus = RecordingBus({CoinsMove: [Unreachable("Temporal is away"), MOVED]})

    with pytest.raises(Unreachable, match="Temporal is away"):
        await bus.publish(MOVE, event_id="k")
    assert bus.published == {}
    assert len(await bus.publish(MOVE, event_id="k")) == 1


async def test_a_missing_or_wrong_answer_says_what_to_write() -> None:
    bus = RecordingBus(catalog=Catalog.of(orchestrators=[CoinsMove]))
    with pytest.raises(UsageError, match=r"gives no answer for CoinsMove: RecordingBus\(\{CoinsMove: CoinsMoveComp"):
        await bus.execute(CoinsMove, MOVE)

    with pytest.raises(UsageError, match="answers CoinsMove with Approved; it ends with CoinsMoveCompleted"):
        await RecordingBus({CoinsMove: Approved(coins=1, by="olena")}).execute(CoinsMove, MOVE)


async def test_a_saga_that_was_not_published_is_unknown() -> None:
    with pytest.raises(SagaUnknown, match="CoinsMove has no saga for the event k"):
        await RecordingBus({CoinsMove: MOVED}).saga(CoinsMove, "k").result()


async def test_events_are_received_in_order_and_no_time_passes() -> None:
    bus = RecordingBus(events=[Approved(coins=1, by="olena"), MOVED, Approved(coins=2, by="taras")])

    async with bus.listening(Approved) as heard:
        assert [(await heard.next()).by, (await heard.next()).by] == ["olena", "taras"]
        with pytest.raises(EventTimeout, match="no APPROVED left"):
            await heard.next()
    assert (await bus.next_event(Approved, matching=lambda approved: approved.coins == 2)).by == "taras"


async def test_what_is_sent_to_a_saga_is_recorded() -> None:
    bus = RecordingBus({Approval: NotFinished("waits")})
    [handle] = await bus.publish(ApprovalRequested(coins=1, wait_seconds=1))
    approved = Approved(coins=1, by="olena")

    await bus.send(approved, to=Approval, triggering_event_id=handle.event_id)
    with pytest.raises(EventRejected, match=r"event\.not_awaited"):
        await bus.send(MOVED, to=Approval, triggering_event_id=handle.event_id)

    assert bus.sent == [Sent(approved, Approval, handle.event_id)]


def test_code_without_an_event_loop_publishes_through_a_blocking_bus() -> None:
    bus = RecordingBus({CoinsMove: MOVED})

    with bus.blocking() as blocking:
        assert blocking.execute(CoinsMove, MOVE, event_id="k") == MOVED

    assert bus.published == {"k": MOVE}
    assert asyncio.run(bus.execute(CoinsMove, MOVE, event_id="k")) == MOVED  # in another event loop


async def test_what_needs_a_server_says_so() -> None:
    with pytest.raises(UsageError, match="a RecordingBus has no connection to Temporal"):
        await RecordingBus().client.count_workflows("")


def test_an_outcome_is_json() -> None:
    bus = RecordingBus({CoinsMove: MOVED})

    async def outcome() -> str:
        [handle] = await bus.publish(MOVE)
        return (await handle.outcome()).model_dump_json()

    assert json.loads(asyncio.run(outcome()))["event"]["data"] == {"coins": 3, "note": "n"}
