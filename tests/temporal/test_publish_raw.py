"""Publishing messages from another system, through the bus or through the workflow that looks up the listeners."""

import json
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from orchestrator import EventBus, EventRejected
from orchestrator.protocol.messages.envelope import EVENT_SIZE_LIMIT, wrap
from orchestrator.workflow.own_execution import raw_json
from tests.cast_events import CoinsMoveCompleted, CoinsMoveRequested
from tests.house import House, eventually, new_id, update

EVENT = CoinsMoveRequested(source="a", target="b", coins=10)


def envelope(event_id: str, **changed: Any) -> bytes:
    """The event's envelope with some attributes changed."""
    return json.dumps({**json.loads(wrap(EVENT, event_id=event_id, source="shop").text), **changed}).encode()


GARBAGE: dict[str, tuple[bytes | str, str]] = {
    "nothing": (b"", "event.not_json"),
    "not text": (b"\x00\xff", "event.not_json"),
    "a lone surrogate": ('"\ud800"', "event.not_json"),
    "an unknown type": (envelope("x", type="NOBODY_KNOWS"), "event.unknown_type"),
    "a type without a listener": (
        wrap(CoinsMoveCompleted(coins=1, note="x"), event_id="x", source="shop").text,
        "event.no_listener",
    ),
    "a wrong field": (envelope("x", data={"source": "a"}), "event.invalid"),
    "too large": (b'"' + b"x" * 3_000_000 + b'"', "event.too_large"),
}


async def test_an_envelope_is_published_unchanged_and_a_repeat_is_a_repeat(house: House) -> None:
    before, event_id = await house.holdings(), new_id()

    [saga] = await house.bus.publish_raw(envelope(event_id))
    await saga.result()
    [again] = await house.bus.publish_raw(envelope(event_id).decode())

    assert again.is_repeat
    assert await house.holdings() == before.moved("a", "b", 10)
    [row] = await house.sagas()
    assert (row.event_id, json.loads(row.envelope)["source"]) == (event_id, "shop")


async def test_what_the_bus_cannot_deliver_becomes_a_dead_letter_and_its_sender_gets_the_number(house: House) -> None:
    numbers: list[int | None] = []
    for raw, code in GARBAGE.values():
        with pytest.raises(EventRejected) as raised:
            await house.bus.publish_raw(raw)
        assert raised.value.code == code
        numbers.append(raised.value.dead_letter)

    letters = await house.dead_letters()
    assert [letter.id for letter in letters] == numbers
    assert [letter.code for letter in letters] == [code for _, code in GARBAGE.values()]
    assert {letter.source for letter in letters} == {"bus"}
    assert [letter.raw for letter in letters] == [
        raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass") for raw, _ in GARBAGE.values()
    ]


async def test_the_bus_stores_an_event_with_a_reused_id_as_a_dead_letter(house: House) -> None:
    event_id = new_id()
    [saga] = await house.bus.publish_raw(envelope(event_id))
    await saga.result()

    with pytest.raises(EventRejected) as raised:
        await house.bus.publish_raw(envelope(event_id, data={"source": "a", "target": "b", "coins": 11}))

    [letter] = await house.dead_letters()
    assert (letter.code, letter.id) == ("event.id_reused", raised.value.dead_letter)


async def test_a_bus_without_a_database_lets_a_worker_store_the_dead_letter(house: House) -> None:
    bus = EventBus(house.client, house.catalog, task_queue=house.task_queue)

    rejections: list[EventRejected] = []
    for raw in (b"\x00\xff", b'"' + b"x" * 1_500_000 + b'"', b'"' + b"x" * 2_500_000 + b'"'):
        with pytest.raises(EventRejected) as raised:
            await bus.publish_raw(raw)
        rejections.append(raised.value)

    letters = await house.dead_letters()
    assert [(letter.source, letter.code, letter.size) for letter in letters] == [
        ("bus", "event.not_json", 2),
        ("bus", "event.too_large", 1_500_002),
    ]
    assert [rejection.dead_letter for rejection in rejections] == [letters[0].id, letters[1].id, None]
    assert "Give the bus its database" in rejections[2].message


async def test_an_event_of_a_newer_version_is_accepted_and_waits_for_a_newer_worker(house: House) -> None:
    [saga] = await house.bus.publish_raw(envelope(new_id(), dataversion=2))

    assert saga.workflow_id.startswith("CoinsMove/event/")
    assert await house.dead_letters() == []
    await house.client.get_workflow_handle(saga.workflow_id).terminate()


async def test_a_sender_that_does_not_know_the_listeners_starts_one_workflow_with_the_envelope(house: House) -> None:
    before, event_id = await house.holdings(), new_id()

    published = await house.client.execute_workflow(
        "PublishEvent", raw_json(envelope(event_id)), id=new_id(), task_queue=house.task_queue
    )

    assert published == {
        "published": [{"event_id": event_id, "orchestrators": ["CoinsMove"]}],
        "dead_letters": 0,
    }
    await house.client.get_workflow_handle(f"CoinsMove/event/{event_id}").result()
    again = await house.client.execute_workflow(
        "PublishEvent", raw_json(envelope(event_id)), id=new_id(), task_queue=house.task_queue
    )
    assert again == published
    assert await house.holdings() == before.moved("a", "b", 10)


async def test_garbage_does_not_block_the_publishing_workflow_and_becomes_dead_letters(house: House) -> None:
    target, ids = new_id(), [new_id() for _ in range(2)]
    large = b'"' + b"x" * (EVENT_SIZE_LIMIT + 600_000) + b'"'
    handle = await house.client.start_workflow(
        "PublishEvent",
        args=[raw_json(b"{"), raw_json(large)],
        id=target,
        task_queue=house.task_queue,
        start_signal="evnet",
        start_signal_args=[1],
    )
    await handle.signal("event", raw_json(envelope(ids[0])))
    await update(handle, "any", raw_json(envelope(ids[1])), None)

    published = await handle.result()

    assert [event["event_id"] for event in published["published"]] == ids
    letters = {(letter.source, letter.code): letter.raw for letter in await house.dead_letters()}
    assert letters == {
        ("start", "event.not_json"): b"{",
        ("start", "event.too_large"): large,
        ("evnet", "signal.unknown"): b"1",
        ("update", "event.missing"): b"",
    }


@pytest.mark.parametrize("workflow", ["PublishEvent", "ScheduledPublish"])
async def test_an_engine_workflow_that_is_started_with_garbage_fails_with_the_reason(
    house: House, workflow: str
) -> None:
    with pytest.raises(WorkflowFailureError) as raised:
        await house.client.execute_workflow(
            workflow, args=[raw_json(b"\xff"), raw_json(b"{}")], id=new_id(), task_queue=house.task_queue
        )

    assert isinstance(raised.value.cause, ApplicationError)
    assert len(await house.dead_letters()) == 2


async def test_a_schedule_must_give_a_number_as_a_string_if_it_would_lose_digits(house: House) -> None:
    arguments = b'{"event_type": "NOTHING_REQUESTED", "arguments": {"price": 12345678901234567.89}}'

    with pytest.raises(WorkflowFailureError) as raised:
        await house.client.execute_workflow(
            "ScheduledPublish", raw_json(arguments), id=new_id(), task_queue=house.task_queue
        )

    assert "give it as a string" in str(raised.value.cause)
    assert [letter.code for letter in await house.dead_letters()] == ["event.invalid"]


async def test_recovery_ignores_its_arguments(house: House) -> None:
    handle = await house.client.start_workflow(
        "SagaRecovery", args=[raw_json(b"{"), 7], id=new_id(), task_queue=house.task_queue
    )

    async def has_ended() -> bool:
        return (await handle.describe()).close_time is not None

    await eventually(has_ended, "the recovery workflow ends")
