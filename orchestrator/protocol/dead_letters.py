"""A message that is no event of ours, on its way to the table of dead letters.

In pieces, because an activity's argument over 2 MiB would fail the workflow task for ever.
"""

import base64
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

PIECE = 512 * 1024
"""Bytes a piece; Base64 makes 683 KiB of it, far under Temporal's 2 MiB."""


class DeadLetterPiece(BaseModel):
    """One piece of a message, with where it came from and why it is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    door: str
    """`start`, `update`, or the signal's name."""
    position: int
    """Count of messages that this run had received, this one among them."""
    code: str
    reason: str
    size: int
    """Bytes of the whole message."""
    offset: int
    raw_base64: str

    @property
    def raw(self) -> bytes:
        """This piece's bytes."""
        return base64.b64decode(self.raw_base64)


def pieces(raw: bytes, *, door: str, position: int, code: str, reason: str) -> Iterator[DeadLetterPiece]:
    """Cut a message; an empty one is one empty piece."""
    for offset in range(0, max(len(raw), 1), PIECE):
        yield DeadLetterPiece(
            door=door,
            position=position,
            code=code,
            reason=reason,
            size=len(raw),
            offset=offset,
            raw_base64=base64.b64encode(raw[offset : offset + PIECE]).decode(),
        )
