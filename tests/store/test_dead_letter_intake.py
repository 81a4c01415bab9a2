"""A dead letter is stored whole and only once, however it arrives."""

from orchestrator.protocol.messages.dead_letters import PIECE, DeadLetter, DeadLetterPiece, Inbound, pieces
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_dead_letter
from orchestrator.store.dead_letters.intake import store_dead_letter, store_piece
from tests.house import rows


async def keep(database: Database, piece: DeadLetterPiece, workflow_id: str = "w") -> None:
    """Store one piece, as the activity does."""
    await store_piece(database, piece, workflow_id=workflow_id, run_id="r")


async def test_a_large_message_is_stored_whole_even_if_each_piece_arrives_twice(database: Database) -> None:
    raw = bytes(range(256)) * 8_000
    for piece in pieces(Inbound("event", 1, raw), "event.too_large", "too large"):
        await keep(database, piece)
        await keep(database, piece)

    [letter] = await rows(database, saga_dead_letter)
    assert len(raw) > 3 * PIECE
    assert letter.raw == raw
    assert letter.size == len(raw)


async def test_each_message_of_each_run_is_its_own_dead_letter(database: Database) -> None:
    for workflow_id in ("one", "two"):
        for position in (1, 2):
            for piece in pieces(Inbound("event", position, b""), "event.missing", "x"):
                await keep(database, piece, workflow_id)

    assert len(await rows(database, saga_dead_letter)) == 4


async def test_a_message_of_which_only_the_first_piece_is_stored_is_completed(database: Database) -> None:
    raw = b'{"nested": {"id": "inner"}, "id": "order-17", "text": "' + b"x" * 2 * PIECE + b'"}'
    message = Inbound("event", 1, raw)
    first, *others = pieces(message, "event.too_large", "too large")
    await keep(database, first)

    await store_dead_letter(database, DeadLetter(message, "event.too_large", "too large", "w", "r"))
    for piece in (first, *others):
        await keep(database, piece)

    [letter] = await rows(database, saga_dead_letter)
    assert (letter.raw, letter.size, letter.event_id) == (raw, len(raw), "order-17")


async def test_a_longer_message_from_the_same_origin_replaces_nothing(database: Database) -> None:
    for raw in (b"first", b"the second"):
        await store_dead_letter(database, DeadLetter(Inbound("outbox", 1, raw), "event.not_json", "x", "w", "r"))

    [letter] = await rows(database, saga_dead_letter)
    assert (letter.raw, letter.size) == (b"first", 5)
