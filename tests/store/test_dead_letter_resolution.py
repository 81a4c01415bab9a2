"""A dead letter is settled only once, even if several people replay, drop or edit it at the same time."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from orchestrator.protocol.messages.dead_letters import PIECE, DeadLetter, Inbound, pieces
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_dead_letter
from orchestrator.store.dead_letters.intake import fill_in_event_ids, store_dead_letter, store_piece
from orchestrator.store.dead_letters.resolution import (
    Search,
    Settled,
    State,
    StoredDeadLetter,
    claim_for_replay,
    count_dead_letters,
    dead_letters_of_event,
    find_dead_letters,
    give_up_replay,
    read_dead_letter,
    settle_dead_letter,
    store_edited_copy,
)
from tests.house import rows

RAW = b'{"id": "order-17", "type": "COINS_MOVE_REQUESTED"}'


async def keep(database: Database, raw: bytes = RAW, *, code: str = "event.invalid", position: int = 1) -> int:
    """Store a dead letter of one execution; returns its number."""
    message = Inbound("event", position, raw)
    return await store_dead_letter(database, DeadLetter(message, code, "x", "CoinsMove/event/order-17", "run"))


async def whole(database: Database, number: int) -> StoredDeadLetter:
    """The view of a dead letter that exists."""
    letter = await read_dead_letter(database, number)
    assert letter is not None
    return letter


async def test_a_message_at_one_position_of_an_execution_is_stored_once(database: Database) -> None:
    first, other = await keep(database), await keep(database, position=2)

    assert await keep(database) == first != other
    assert await count_dead_letters(database, Search()) == 2


async def test_of_several_concurrent_settlements_of_a_letter_one_succeeds(database: Database) -> None:
    number = await keep(database)

    results = await asyncio.gather(
        *(settle_dead_letter(database, number, f"dropped by {person}: x", heeds_claims=True) for person in range(8))
    )

    assert sorted(results) == [Settled.BEFORE] * 7 + [Settled.DONE]
    assert (await whole(database, number)).settled_as == f"dropped by {results.index(Settled.DONE)}: x"


async def test_a_letter_in_replay_can_be_dropped_or_edited_only_after_the_replay_is_given_up(
    database: Database,
) -> None:
    number = await keep(database)
    claim = await claim_for_replay(database, number, by="olena")
    assert claim is not None
    letter = await whole(database, number)

    assert await settle_dead_letter(database, number, "dropped", heeds_claims=True) is Settled.UNDER_WAY
    assert await store_edited_copy(database, letter, b"{}", by="taras", code="event.edited", reason="x") is None
    assert await count_dead_letters(database, Search(state=State.ALL)) == 1

    await give_up_replay(database, number, claim)
    assert await settle_dead_letter(database, number, "dropped", heeds_claims=True) is Settled.DONE


async def test_giving_up_the_first_of_two_replays_does_not_allow_a_drop(
    database: Database,
) -> None:
    number = await keep(database)
    first = await claim_for_replay(database, number, by="olena")
    assert first is not None
    assert await claim_for_replay(database, number, by="taras") is not None

    await give_up_replay(database, number, first)

    assert await settle_dead_letter(database, number, "dropped", heeds_claims=True) is Settled.UNDER_WAY
    assert await settle_dead_letter(database, number, "replayed", heeds_claims=False) is Settled.DONE
    assert await claim_for_replay(database, number, by="olena") is None


async def test_a_letter_can_be_dropped_after_its_replay_has_died(database: Database) -> None:
    number = await keep(database)
    long_ago = f"being replayed since {(datetime.now(UTC) - timedelta(minutes=2)).isoformat()} by olena"
    async with database.transaction() as connection:
        await connection.execute(update(saga_dead_letter).values(settled_as=long_ago))

    assert await settle_dead_letter(database, number, "dropped", heeds_claims=True) is Settled.DONE


async def test_an_edited_copy_is_its_own_letter_and_the_original_is_unchanged(database: Database) -> None:
    number = await keep(database)
    letter = await whole(database, number)

    copies = await asyncio.gather(
        *(store_edited_copy(database, letter, b"{}", by="olena", code="event.edited", reason="x") for _ in range(4))
    )

    [copy] = [number for number in copies if number is not None]
    original, edited = await whole(database, number), await whole(database, copy)
    assert (original.raw, original.settled_as) == (RAW, f"edited as {copy} by olena")
    assert (edited.raw, edited.edited_from, edited.is_open) == (b"{}", number, True)


@pytest.mark.parametrize(
    ("search", "found"),
    [
        (Search(), [3, 1]),
        (Search(state=State.SETTLED), [2]),
        (Search(state=State.ALL, limit=2), [3, 2]),
        (Search(code="event.not_json"), [3]),
        (Search(source="update"), []),
        (Search(event_type="COINS_MOVE_REQUESTED"), [1]),
        (Search(event_type="COINS_MOVE"), []),
        (Search(orchestrator="CoinsMove"), [3, 1]),
        (Search(orchestrator="Coins"), []),
        (Search(since=datetime.now(UTC) + timedelta(days=1)), []),
    ],
)
async def test_letters_are_found_by_each_search_criterion(database: Database, search: Search, found: list[int]) -> None:
    numbers = [
        await keep(database),
        await keep(database, position=2),
        await keep(database, b"\x00\xff", code="event.not_json", position=3),
    ]
    await settle_dead_letter(database, numbers[1], "dropped", heeds_claims=True)

    letters = await find_dead_letters(database, search)

    assert [numbers.index(letter.id) + 1 for letter in letters] == found
    assert await count_dead_letters(database, search) >= len(found)


async def test_letters_are_found_only_by_their_own_event_id(database: Database) -> None:
    mine = await keep(database)
    cut_off = await keep(database, b'{"id" : "order-17", "da', position=2)
    await keep(database, b'{"id": "order-170", "source": "order-17"}', position=3)

    assert [letter.id for letter in await dead_letters_of_event(database, "order-17")] == [cut_off, mine]


@pytest.mark.parametrize(
    ("raw", "event_id"),
    [
        (b'{"id": "order-17"}', "order-17"),
        (b'{"data": {"id": "inner"}, "id": "order-17"}', "order-17"),
        (b'{"data": {"id": "inner"}}', ""),
        (b'{"id": 17}', ""),
        (b'{"id": "order\\u002d17"}', "order-17"),
        (b'{"id" : "order-17", "da', "order-17"),
        (b'["id"]', ""),
        (b"\x00\xff", ""),
        (b"", ""),
        (b'{"id": "' + b"x" * 129 + b'"}', ""),
        (b'{"id": "a\\u0000b"}', "a\ufffdb"),
        (b'{"id": "a\\ud800b"}', "a?b"),
        (b"[" * 100_000 + b'"id": "order-17"', "order-17"),
    ],
)
async def test_a_letter_is_stored_with_the_event_id_in_its_text(database: Database, raw: bytes, event_id: str) -> None:
    await keep(database, raw)

    [row] = await rows(database, saga_dead_letter)
    assert row.event_id == event_id


async def test_letters_stored_by_an_older_version_are_found_and_get_their_event_ids(database: Database) -> None:
    mine = await keep(database)
    async with database.transaction() as connection:
        await connection.execute(update(saga_dead_letter).values(event_id=None))

    before = [letter.id for letter in await dead_letters_of_event(database, "order-17")]
    named = [await fill_in_event_ids(database) for _ in range(2)]
    after = [letter.id for letter in await dead_letters_of_event(database, "order-17")]

    assert (before, named, after) == ([mine], [1, 0], [mine])


async def test_a_letter_with_missing_pieces_is_not_whole(database: Database) -> None:
    first, *_ = pieces(Inbound("event", 1, b"1" * 2 * PIECE), "event.too_large", "x")
    number = await store_piece(database, first, workflow_id="w", run_id="r")

    assert not (await whole(database, number)).is_whole
