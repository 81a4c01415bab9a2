"""A dead letter is stored whole and only once, however it arrives."""

from orchestrator.protocol.dead_letters import PIECE, DeadLetterPiece, pieces
from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_dead_letter
from orchestrator.store.dead_letters.intake import keep_piece
from tests.house import rows


async def keep(database: Database, piece: DeadLetterPiece, workflow_id: str = "w") -> None:
    """Store one piece, as the activity does."""
    await keep_piece(
        database,
        door=piece.door,
        workflow_id=workflow_id,
        run_id="r",
        position=piece.position,
        code=piece.code,
        reason=piece.reason,
        size=piece.size,
        offset=piece.offset,
        raw=piece.raw,
    )


async def test_a_large_message_is_stored_whole_even_if_each_piece_arrives_twice(database: Database) -> None:
    raw = bytes(range(256)) * 8_000
    for piece in pieces(raw, source="event", position=1, code="event.too_large", reason="too large"):
        await keep(database, piece)
        await keep(database, piece)

    [letter] = await rows(database, saga_dead_letter)
    assert len(raw) > 3 * PIECE
    assert letter.raw == raw
    assert letter.size == len(raw)


async def test_each_message_of_each_run_is_its_own_dead_letter(database: Database) -> None:
    for workflow_id in ("one", "two"):
        for position in (1, 2):
            for piece in pieces(b"", source="event", position=position, code="event.missing", reason="x"):
                await keep(database, piece, workflow_id)

    assert len(await rows(database, saga_dead_letter)) == 4
