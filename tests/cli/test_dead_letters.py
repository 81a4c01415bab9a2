"""`orchestrator dead-letters`: a person sees what could not be read, mends it, and sends it again."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.main import run
from orchestrator.client import EventBus
from orchestrator.client.dead_letters import DeadLetters, ReplayForecast
from orchestrator.errors import Unreachable
from orchestrator.protocol.envelope import wrap
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
    """Types a command that asks this house; in this process, as nothing here depends on its being another."""
    monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", house.database.url.render_as_string(hide_password=False))
    monkeypatch.setenv("ORCHESTRATOR_PACKAGES", "tests.cast,tests.orchestrators")
    monkeypatch.setenv("ORCHESTRATOR_TASK_QUEUE", house.task_queue)
    monkeypatch.setenv("TEMPORAL_ADDRESS", house.client.service_client.config.target_host)

    async def ran(*words: str) -> Ran:
        capsys.readouterr()
        code = await asyncio.to_thread(run, ["dead-letters", *words] if words[0] != "status" else words)
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return ran


def message(event_id: str, **changed: Any) -> bytes:
    """The event as it travels, some attributes changed."""
    return json.dumps({**json.loads(wrap(EVENT, event_id=event_id, source="shop").text), **changed}).encode()


async def sent_wrongly(house: House, event_id: str, **changed: Any) -> int:
    """A letter's number, of a message that was pasted as a start."""
    known = {letter.id for letter in await house.dead_letters()}
    await house.client.start_workflow(
        "CoinsMove",
        raw_json(message(event_id, **changed)),
        id=f"CoinsMove/event/{event_id}",
        task_queue=house.task_queue,
    )

    async def is_kept() -> bool:
        return len(await house.dead_letters()) > len(known)

    await eventually(is_kept, "the message is kept")
    [number] = {letter.id for letter in await house.dead_letters()} - known
    return int(number)


async def completed(house: House, event_id: str) -> None:
    """Wait until the event's saga is."""

    async def is_completed() -> bool:
        return [row.phase for row in await house.sagas() if row.event_id == event_id] == ["completed"]

    await eventually(is_completed, f"{event_id} is completed")


async def test_a_wrong_field_is_seen_edited_replayed_and_its_event_completes(house: House, typed: Typed) -> None:
    event_id, before = new_id(), await house.holdings()
    number = await sent_wrongly(house, event_id, data={"source": "a", "target": "b", "coins": "ten"})

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
    assert [(letter["fate"], letter["replayed"]) for letter in refused.document["dead_letters"]] == [("refused", False)]
    assert (edited.code, edited.document["fate"], edited.document["starts"]) == (0, "starts", ["CoinsMove"])
    assert [letter["replayed"] for letter in replayed.document["dead_letters"]] == [True]
    assert "already settled: replayed by olena: COINS_MOVE_REQUESTED" in again.out
    assert json.loads(after.out)["message"]["data"]["coins"] == "ten"
    assert json.loads(after.out)["settled_as"] == f"edited as {copy} by olena"
    assert await house.holdings() == before.moved("a", "b", 10)


@on_sqlite
async def test_a_letter_of_an_unknown_type_is_replayed_once_the_type_is_there(
    house: House, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id, raw = new_id(), message("x")
    older = EventBus(house.client, CATALOG, task_queue=house.task_queue, database=house.database)
    monkeypatch.setattr(older, "catalog", type(CATALOG).of(orchestrators=[], operations=[cast.take]))
    with pytest.raises(Exception, match=r"event\.unknown_type") as told:
        await older.publish_raw(raw.replace(b'"x"', f'"{event_id}"'.encode()))
    number = str(getattr(told.value, "dead_letter", None))
    monkeypatch.setenv("ORCHESTRATOR_PACKAGES", "tests.cast,tests.swarm")
    before = await typed("replay", "--type", "COINS_MOVE_REQUESTED", "--yes")
    monkeypatch.setenv("ORCHESTRATOR_PACKAGES", "tests.cast,tests.orchestrators")

    replayed = await typed("replay", "--code", "event.unknown_type", "--yes")

    assert before.code == 2
    assert f"Dead letter {number} would be refused again: event.unknown_type" in before.out
    assert replayed.code == 0, replayed
    await completed(house, event_id)


@on_sqlite
async def test_two_that_replay_at_once_and_one_that_drops_come_to_one_saga_and_one_end(house: House) -> None:
    event_id = new_id()
    number = await sent_wrongly(house, event_id, data={"source": "a", "target": "b", "coins": 10}, specversion="0.3")
    letters = DeadLetters(house.database, house.bus)
    letter = await letters.get(number)
    assert letter is not None
    mended = await letters.edit(letter, message(event_id), by="olena")
    assert mended is not None
    copy = mended.letter.id

    first, second, dropped = await asyncio.gather(
        letters.replay(copy, by="olena"),
        letters.replay(copy, by="taras"),
        letters.drop(copy, by="ivan", reason="x"),
    )

    assert first is not None
    assert second is not None
    ended = await letters.get(copy)
    assert ended is not None
    assert ended.settled_as is not None
    if dropped is Settled.DONE:
        assert {first.fate, second.fate} == {ReplayForecast.SETTLED}
        assert ended.settled_as == "dropped by ivan: x"
    else:
        assert ended.settled_as.startswith(("replayed by olena", "replayed by taras"))
        await completed(house, event_id)
    assert len(await house.sagas()) <= 1


@on_sqlite
async def test_a_replay_that_is_cut_off_after_it_published_is_made_good_by_the_next(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    event_id = new_id()
    number = await sent_wrongly(house, event_id, specversion="0.3")
    letters = DeadLetters(house.database, house.bus)
    letter = await letters.get(number)
    assert letter is not None
    mended = await letters.edit(letter, message(event_id), by="olena")
    assert mended is not None
    publish = EventBus.publish_envelope

    async def publish_and_break(self: EventBus, raw: bytes | str) -> Any:
        await publish(self, raw)
        raise Unreachable("the answer was lost")

    monkeypatch.setattr(EventBus, "publish_envelope", publish_and_break)
    with pytest.raises(Unreachable):
        await letters.replay(mended.letter.id, by="olena")
    monkeypatch.undo()
    await completed(house, event_id)
    left = await letters.get(mended.letter.id)
    assert left is not None
    assert left.settled_as is None

    again = await letters.replay(mended.letter.id, by="olena")

    assert again is not None
    assert (again.fate, dict(again.stands or {})) == (ReplayForecast.REPEATS, {"CoinsMove": "completed"})
    assert len(await house.sagas()) == 1


@on_sqlite
async def test_letters_are_listed_dropped_with_a_reason_and_shown_in_a_form_that_harms_no_terminal(
    house: House, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for raw in (b"\x00\xff\xfe", b"\x1b[2J broken", b"{}"):
        with pytest.raises(Exception, match=r"event\.not_"):
            await house.bus.publish_raw(raw)
    binary, text, empty = [str(letter.id) for letter in await house.dead_letters()]

    listed, narrowed = await typed("list"), await typed("list", "--code", "event.not_json", "--since", "1h", "--json")
    nobody = await typed("drop", binary, "--reason", "...")
    asked = await typed("drop", binary, "--reason", "a test")
    dropped = await typed("drop", binary, "--reason", "a test", "--as", "olena", "--yes")
    twice = await typed("drop", binary, "--reason", "a test", "--yes", "--json")
    unknown = await typed("show", "999999", "--json")
    (tmp_path / "mended.json").write_bytes(message("from-a-file"))
    filed = await typed("edit", empty, "--file", str(tmp_path / "mended.json"), "--json")
    no_json = await typed("edit", text, "--set", "data.coins=1")

    assert [row.split()[0] for row in listed.out.splitlines()[1:4]] == [empty, text, binary]
    assert [letter["number"] for letter in narrowed.document["dead_letters"]] == [int(text), int(binary)]
    assert (await typed("show", binary)).out.count("00fffe") == 1
    assert "\\x1b[2J broken" in (await typed("show", text)).out
    assert (nobody.code, asked.code, dropped.code, twice.code) == (2, 2, 0, 2)
    assert twice.document["dead_letters"] == [{"number": int(binary), "became": "before"}]
    assert "dropped by olena: a test" in (await typed("show", binary)).out
    assert [line.split()[0] for line in (await typed("list", "--settled")).out.splitlines()[1:3]] == [empty, binary]
    assert unknown.document["error"]["code"] == "event.no_letter"
    assert filed.document["event_id"] == "from-a-file"
    assert no_json.code == 2
    assert (await typed("replay")).code == 2
