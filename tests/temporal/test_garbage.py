"""Garbage that is sent directly to an execution becomes a dead letter and affects nothing else."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import WithStartWorkflowOperation, WorkflowFailureError
from temporalio.common import RawValue, WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError

from orchestrator.protocol.messages.envelope import EVENT_SIZE_LIMIT, wrap
from orchestrator.workflow.own_execution import raw_json
from tests.cast import Gate, Script
from tests.cast_events import CoinsMoveRequested, NothingRequested
from tests.house import House, new_id, update

EVENT = CoinsMoveRequested(source="a", target="b", coins=10)


def good(event_id: str, **changed: Any) -> RawValue:
    """A valid envelope of the event with some attributes changed."""
    message = json.loads(wrap(EVENT, event_id=event_id, source="tests").text)
    return raw_json(json.dumps({**message, **changed}).encode())


def raw(data: bytes, encoding: bytes = b"json/plain") -> RawValue:
    """A payload that claims an encoding."""
    return RawValue(Payload(metadata={"encoding": encoding}, data=data))


GARBAGE: dict[str, tuple[Sequence[Any], Sequence[str]]] = {
    "no arguments": ([], ["event.missing"]),
    "null": ([None], ["event.missing"]),
    "a number": ([7], ["event.not_cloudevent"]),
    "a string": (["hello"], ["event.not_cloudevent"]),
    "broken JSON": ([raw(b'{"specversion": "1.0", ')], ["event.not_json"]),
    "no JSON at all": ([raw(b"\x00\xff\xfe")], ["event.not_json"]),
    "an unknown encoding": ([raw(b"??", b"binary/mystery")], ["event.not_json"]),
    "NaN": ([raw(b'{"data": NaN}')], ["event.not_json"]),
    "two arguments": ([{"a": 1}, {"b": 2}], ["event.not_cloudevent", "event.not_cloudevent"]),
    "deep nesting": ([raw(b"[" * 100_000)], ["event.not_json"]),
    "another event's type": (
        [raw_json(wrap(NothingRequested(refuse=False), event_id="x", source="tests").text.encode())],
        ["event.unknown_type"],
    ),
    "a newer version": ([good("x", dataversion=2)], ["event.version_newer"]),
    "a bad id": ([good("x", id="not an id!")], ["event.invalid_id"]),
    "no time": ([good("x", time=None)], ["event.not_cloudevent"]),
    "an unknown field": ([good("x", data={"source": "a", "target": "b", "coins": 1, "more": 1})], ["event.invalid"]),
    "a float": ([good("x", data={"source": "a", "target": "b", "coins": 10.0})], ["event.invalid"]),
    "too large": ([raw(b'"' + b"x" * (EVENT_SIZE_LIMIT + 1) + b'"')], ["event.too_large"]),
}


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_garbage_in_the_inbox_becomes_a_dead_letter_and_the_good_event_is_handled(
    house: House, garbage: str
) -> None:
    arguments, codes = GARBAGE[garbage]
    before, event_id, gate = await house.holdings(), new_id(), Gate()
    Script.after["take"] = gate
    [saga] = await house.bus.publish(EVENT, event_id=event_id)
    await gate.reached.wait()

    await house.client.get_workflow_handle(saga.workflow_id).signal("event", args=arguments)
    gate.opened.set()

    await saga.result()
    assert await house.holdings() == before.moved("a", "b", 10)
    assert [letter.code for letter in await house.dead_letters()] == codes
    assert {letter.source for letter in await house.dead_letters()} == {"event"}


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_an_execution_started_with_garbage_fails_and_says_why(house: House, garbage: str) -> None:
    arguments, codes = GARBAGE[garbage]
    if not arguments:
        pytest.skip("an execution started without arguments waits for a signal; another test covers that")
    handle = await house.client.start_workflow("CoinsMove", args=arguments, id=new_id(), task_queue=house.task_queue)

    with pytest.raises(WorkflowFailureError) as raised:
        await handle.result()

    assert isinstance(raised.value.cause, ApplicationError)
    assert raised.value.cause.type == codes[0]
    assert "dead letter" in raised.value.cause.message
    letters = await house.dead_letters()
    assert [letter.code for letter in letters] == list(codes)
    assert {letter.origin_workflow_id for letter in letters} == {handle.id}
    assert await house.sagas() == []


async def test_a_dead_letter_has_the_exact_bytes_of_the_garbage(house: House) -> None:
    data = b"\x00\xff not for us \xfe" + b"x" * 1_500_000
    handle = await house.client.start_workflow("CoinsMove", raw(data), id=new_id(), task_queue=house.task_queue)

    with pytest.raises(WorkflowFailureError):
        await handle.result()

    [letter] = await house.dead_letters()
    assert letter.raw == data


async def test_an_event_pasted_as_the_start_argument_is_handled(house: House) -> None:
    """The Web UI and `temporal workflow start --input` start an execution like that, with any workflow id."""
    before = await house.holdings()

    outcome = await house.client.execute_workflow(
        "CoinsMove", good(new_id()), id=f"pasted-{new_id()}", task_queue=house.task_queue
    )

    assert outcome["phase"] == "completed"
    assert await house.holdings() == before.moved("a", "b", 10)


async def test_a_good_event_after_garbage_in_one_start_is_handled(house: House) -> None:
    before = await house.holdings()

    outcome = await house.client.execute_workflow(
        "CoinsMove", args=["garbage", good(new_id())], id=new_id(), task_queue=house.task_queue
    )

    assert outcome["phase"] == "completed"
    assert await house.holdings() == before.moved("a", "b", 10)
    assert len(await house.dead_letters()) == 1


async def test_an_execution_started_without_arguments_waits_for_its_event(house: House) -> None:
    handle = await house.client.start_workflow("CoinsMove", id=new_id(), task_queue=house.task_queue)
    await handle.signal("event", good(new_id()))

    assert (await handle.result())["phase"] == "completed"


async def test_several_events_for_one_execution_are_all_handled(house: House) -> None:
    before = await house.holdings()

    await house.client.execute_workflow(
        "CoinsMove", args=[good(new_id()) for _ in range(3)], id=new_id(), task_queue=house.task_queue
    )

    holdings = await house.holdings()
    assert holdings.boxes == {"a": before.boxes["a"] - 30, "b": 30}
    assert [saga.phase for saga in await house.sagas()] == ["completed"] * 3


async def test_a_signal_with_an_unknown_name_becomes_a_dead_letter(house: House) -> None:
    gate = Gate()
    Script.after["take"] = gate
    [saga] = await house.bus.publish(EVENT)
    await gate.reached.wait()
    await house.client.get_workflow_handle(saga.workflow_id).signal("evnet", args=[1, 2])
    gate.opened.set()

    await saga.result()

    assert [(letter.source, letter.code) for letter in await house.dead_letters()] == [("evnet", "signal.unknown")] * 2


async def test_garbage_by_updates_becomes_dead_letters_and_the_good_event_is_handled(house: House) -> None:
    """Every kind goes to one execution, under any update name. An error in the handler would wedge the execution."""
    before, gate, pasted = await house.holdings(), Gate(), new_id()
    Script.after["take"] = gate
    [saga] = await house.bus.publish(EVENT)
    await gate.reached.wait()
    handle = house.client.get_workflow_handle(saga.workflow_id)

    replies = [
        await update(handle, f"any name {number}", *arguments) for number, (arguments, _) in enumerate(GARBAGE.values())
    ]
    await update(handle, "event", good(pasted))
    gate.opened.set()

    await saga.result()
    assert replies == [{"accepted": len(arguments) or 1} for arguments, _ in GARBAGE.values()]
    letters = await house.dead_letters()
    assert [letter.code for letter in letters] == [code for _, codes in GARBAGE.values() for code in codes]
    assert {letter.source for letter in letters} == {"update"}
    assert {row.event_id for row in await house.sagas()} == {saga.event_id, pasted}
    assert (await house.holdings()).boxes == {"a": before.boxes["a"] - 20, "b": 20}


async def test_no_event_that_is_sent_by_update_while_its_execution_closes_is_lost(house: House) -> None:
    """Updates race the end of their execution: what was accepted is handled."""
    one_coin, target = CoinsMoveRequested(source="a", target="b", coins=1), f"race-{new_id()}"

    async def send(event_id: str) -> None:
        start: WithStartWorkflowOperation[Any, Any] = WithStartWorkflowOperation(
            "CoinsMove",
            id=target,
            task_queue=house.task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        )
        envelope = raw_json(wrap(one_coin, event_id=event_id, source="tests").text.encode())
        client: Any = house.client  # this method's type is partially unknown
        await client.execute_update_with_start_workflow("event", envelope, start_workflow_operation=start, id=event_id)

    ids = [new_id() for _ in range(40)]
    for batch in range(0, 40, 4):
        await asyncio.gather(*(send(event_id) for event_id in ids[batch : batch + 4]))
        await house.client.get_workflow_handle(target).describe()
    await house.client.get_workflow_handle(target).result()

    assert sorted(saga.event_id for saga in await house.sagas()) == sorted(ids)
    assert {saga.phase for saga in await house.sagas()} == {"completed"}
    assert (await house.holdings()).boxes == {"a": 60, "b": 40}


async def test_no_event_that_is_signalled_while_its_execution_closes_is_lost(house: House) -> None:
    """Events race the end of their execution: each is handled there or in the next run."""
    ids = [new_id() for _ in range(40)]
    target = f"race-{new_id()}"

    async def send(event_id: str) -> None:
        await house.client.start_workflow(
            "CoinsMove",
            id=target,
            task_queue=house.task_queue,
            start_signal="event",
            start_signal_args=[raw_json(wrap(one_coin, event_id=event_id, source="tests").text.encode())],
        )

    one_coin = CoinsMoveRequested(source="a", target="b", coins=1)
    for batch in range(0, 40, 4):
        await asyncio.gather(*(send(event_id) for event_id in ids[batch : batch + 4]))
        await house.client.get_workflow_handle(target).describe()
    await house.client.get_workflow_handle(target).result()

    assert sorted(saga.event_id for saga in await house.sagas()) == sorted(ids)
    assert {saga.phase for saga in await house.sagas()} == {"completed"}
    assert (await house.holdings()).boxes == {"a": 60, "b": 40}
