"""`orchestrator dead-letters`: a person sees what could not be read, corrects it, and replays it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.main import run
from orchestrator.client import EventBus
from orchestrator.client.dead_letters import DeadLetters, ReplayEffect
from orchestrator.errors import Unreachable
from orchestrator.protocol.messages.envelope import wrap
from orchestrator.store.dead_letters.resolution import Settled
from orchestrator.workflow.own_execution import raw_json
from tests import cast
from tests.cast_events import CoinsMoveRequested
from tests.cli.shell import Ran
from tests.house import CATALOG, House, eventually, new_id

on_sqlite = pytest.mark.parametrize("kind", ["sqlite"])
EVENT = CoinsMoveRequested(source="a", target="b", coins=10)

Typed = Callable[..., Awaitable[Ran]]


@pytest.fixture
def typed(house: House, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Runs a command for this application, in this process, because nothing here needs another one."""
    monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", house.database.url.render_as_string(hide_password=False))
    monkeypatch.setenv("ORCHESTRATOR_PACKAGES", "tests.cast,tests.orchestrators")
    monkeypatch.setenv("ORCHESTRATOR_TASK_QUEUE", house.task_queue)
    monkeypatch.setenv("TEMPORAL_ADDRESS", house.client.service_client.config.target_host)

    async def run_command(*words: str) -> Ran:
        capsys.readouterr()
        code = await asyncio.to_thread(run, ["dead-letters", *words] if words[0] != "status" else words)
        output = capsys.readouterr()
        return Ran(code, output.out, output.err)

    return run_command


def message(event_id: str, **changed: Any) -> bytes:
    """The event's envelope with some attributes changed."""
    return json.dumps({**json.loads(wrap(EVENT, event_id=event_id, source="shop").text), **changed}).encode()


async def send_wrongly(house: House, event_id: str, **changed: Any) -> int:
    """Start an execution with a wrong message, and return the number of the dead letter."""
    known = {letter.id for letter in await house.dead_letters()}
    await house.client.start_workflow(
        "CoinsMove",
        raw_json(message(event_id, **changed)),
        id=f"CoinsMove/event/{event_id}",
        task_queue=house.task_queue,
    )

    async def is_stored() -> bool:
        return len(await house.dead_letters()) > len(known)

    await eventually(is_stored, "the message is stored as a dead letter")
    [number] = {letter.id for letter in await house.dead_letters()} - known
    return int(number)


async def completed(house: House, event_id: str) -> None:
    """Wait until the event's saga has completed."""

    async def is_completed() -> bool:
        return [row.phase for row in await house.sagas() if row.event_id == event_id] == ["completed"]

    await eventually(is_completed, f"{event_id} is completed")


async def test_a_wrong_field_is_shown_edited_and_replayed_and_its_event_completes(house: House, typed: Typed) -> None:
    event_id, before = new_id(), await house.holdings()
    number = await send_wrongly(house, event_id, data={"source": "a", "target": "b", "coins": "ten"})

    status = await typed("status", event_id)
    shown = await typed("show", str(number))
    refused = await typed("replay", str(number), "--yes", "--json")
    edited = await typed("edit", str(number), "--set", "data.coins=10", "--as", "olena", "--json")
    copy = edited.document["number"]
    replayed = await typed("replay", str(copy), "--yes", "--as", "olena", "--json")
    await completed(house, event_id)
    again = await typed("replay", str(copy), "--yes")
    after = await typed("show", str(number), "--json")

    assert status.code == 1
    assert f"its message is dead letter {number}, event.invalid: coins: " in status.out
    assert f"dead-letters show {number}" in status.out
    assert f"from CoinsMove/event/{event_id}, run " in shown.out
    assert "/namespaces/default/workflows/CoinsMove%2Fevent%2F" in shown.out
    assert '    "coins": "ten"\n' in shown.out
    assert refused.code == 2
    assert [(letter["effect"], letter["replayed"]) for letter in refused.document["dead_letters"]] == [
        ("refused", False)
    ]
    assert (edited.code, edited.document["effect"], edited.document["starts"]) == (0, "starts", ["CoinsMove"])
    assert [letter["replayed"] for letter in replayed.document["dead_letters"]] == [True]
    assert "already settled: replayed by olena: COINS_MOVE_REQUESTED" in again.out
    assert json.loads(after.out)["message"]["data"]["coins"] == "ten"
    assert json.loads(after.out)["settled_as"] == f"edited as {copy} by olena"
    assert await house.holdings() == before.moved("a", "b", 10)


@on_sqlite
async def test_a_letter_of_an_unknown_type_is_replayed_once_the_type_is_known(
    house: House, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id, raw = new_id(), message("x")
    older = EventBus(house.client, CATALOG, task_queue=house.task_queue, database=house.database)
    monkeypatch.setattr(older, "catalog", type(CATALOG).of(orchestrators=[], operations=[cast.take]))
    with pytest.raises(Exception, match=r"event\.unknown_type") as raised:
        await older.publish_raw(raw.replace(b'"x"', f'"{event_id}"'.encode()))
    number = str(getattr(raised.value, "dead_letter", None))
    monkeypatch.setenv("ORCHESTRATOR_PACKAGES", "tests.cast,tests.swarm")
    before = await typed("replay", "--type", "COINS_MOVE_REQUESTED", "--yes")
    monkeypatch.setenv("ORCHESTRATOR_PACKAGES", "tests.cast,tests.orchestrators")

    replayed = await typed("replay", "--code", "event.unknown_type", "--yes")

    assert before.code == 2
    assert f"Dead letter {number} would be refused again: event.unknown_type" in before.out
    assert replayed.code == 0, replayed
    await completed(house, event_id)


@on_sqlite
async def test_two_concurrent_replays_and_a_drop_give_one_saga_and_one_resolution(house: House) -> None:
    event_id = new_id()
    number = await send_wrongly(house, event_id, data={"source": "a", "target": "b", "coins": 10}, specversion="0.3")
    letters = DeadLetters(house.database, house.bus)
    letter = await letters.get(number)
    assert letter is not None
    edited = await letters.edit(letter, message(event_id), by="olena")
    assert edited is not None
    copy = edited.letter.id

    first, second, dropped = await asyncio.gather(
        letters.replay(copy, by="olena"),
        letters.replay(copy, by="taras"),
        letters.drop(copy, by="ivan", reason="x"),
    )

    assert first is not None
    assert second is not None
    resolved = await letters.get(copy)
    assert resolved is not None
    assert resolved.settled_as is not None
    if dropped is Settled.DONE:
        assert {first.effect, second.effect} == {ReplayEffect.SETTLED}
        assert resolved.settled_as == "dropped by ivan: x"
    else:
        assert resolved.settled_as.startswith(("replayed by olena", "replayed by taras"))
        await completed(house, event_id)
    assert len(await house.sagas()) <= 1


@on_sqlite
async def test_the_next_replay_completes_one_that_was_interrupted_after_publishing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id = new_id()
    number = await send_wrongly(house, event_id, specversion="0.3")
    letters = DeadLetters(house.database, house.bus)
    letter = await letters.get(number)
    assert letter is not None
    edited = await letters.edit(letter, message(event_id), by="olena")
    assert edited is not None
    publish = EventBus.publish_envelope

    async def publish_and_break(self: EventBus, raw: bytes | str) -> Any:
        await publish(self, raw)
        raise Unreachable("the reply was lost")

    monkeypatch.setattr(EventBus, "publish_envelope", publish_and_break)
    with pytest.raises(Unreachable):
        await letters.replay(edited.letter.id, by="olena")
    monkeypatch.undo()
    await completed(house, event_id)
    interrupted = await letters.get(edited.letter.id)
    assert interrupted is not None
    assert interrupted.settled_as is None

    again = await letters.replay(edited.letter.id, by="olena")

    assert again is not None
    assert (again.effect, dict(again.phases or {})) == (ReplayEffect.REPEATS, {"CoinsMove": "completed"})
    assert len(await house.sagas()) == 1


@on_sqlite
async def test_letters_are_listed_dropped_with_a_reason_and_shown_without_control_characters(
    house: House, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for raw in (b"\x00\xff\xfe", b"\x1b[2J broken", b"{}"):
        with pytest.raises(Exception, match=r"event\.not_"):
            await house.bus.publish_raw(raw)
    binary, text, empty = [str(letter.id) for letter in await house.dead_letters()]

    listed, narrowed = await typed("list"), await typed("list", "--code", "event.not_json", "--since", "1h", "--json")
    unexplained = await typed("drop", binary, "--reason", "...")
    unconfirmed = await typed("drop", binary, "--reason", "a test")
    dropped = await typed("drop", binary, "--reason", "a test", "--as", "olena", "--yes")
    twice = await typed("drop", binary, "--reason", "a test", "--yes", "--json")
    unknown = await typed("show", "999999", "--json")
    (tmp_path / "corrected.json").write_bytes(message("from-a-file"))
    from_file = await typed("edit", empty, "--file", str(tmp_path / "corrected.json"), "--json")
    no_json = await typed("edit", text, "--set", "data.coins=1")

    assert [row.split()[0] for row in listed.out.splitlines()[1:4]] == [empty, text, binary]
    assert [letter["number"] for letter in narrowed.document["dead_letters"]] == [int(text), int(binary)]
    assert (await typed("show", binary)).out.count("00fffe") == 1
    assert "\\x1b[2J broken" in (await typed("show", text)).out
    assert (unexplained.code, unconfirmed.code, dropped.code, twice.code) == (2, 2, 0, 2)
    assert twice.document["dead_letters"] == [{"number": int(binary), "became": "before"}]
    assert "dropped by olena: a test" in (await typed("show", binary)).out
    assert [line.split()[0] for line in (await typed("list", "--settled")).out.splitlines()[1:3]] == [empty, binary]
    assert unknown.document["error"]["code"] == "event.no_letter"
    assert from_file.document["event_id"] == "from-a-file"
    assert no_json.code == 2
    assert (await typed("replay")).code == 2
