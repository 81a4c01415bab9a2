"""A message that could not be read or routed, on its way to the table of dead letters.

It travels in pieces, because an activity argument over 2 MiB would fail the workflow task forever.
"""

import base64
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

PIECE = 512 * 1024
"""The most bytes in a piece. In Base64 that is 683 KiB, far below Temporal's limit of 2 MiB."""


class DeadLetterPiece(BaseModel):
    """One piece of a message, with its source and the reason why it is a dead letter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    door: str
    """The source of the message: `start`, `update`, or the name of a signal."""
    position: int
    """The number of messages that the run had received, including this one."""
    code: str
    reason: str
    size: int
    """The size of the whole message in bytes."""
    offset: int
    """The position of this piece in the message, in bytes."""
    raw_base64: str

    @property
    def raw(self) -> bytes:
        """The bytes of this piece."""
        return base64.b64decode(self.raw_base64)


def pieces(raw: bytes, *, source: str, position: int, code: str, reason: str) -> Iterator[DeadLetterPiece]:
    """Split a message into pieces; an empty message gives one empty piece."""
    for offset in range(0, max(len(raw), 1), PIECE):
        yield DeadLetterPiece(
            door=source,
            position=position,
            code=code,
            reason=reason,
            size=len(raw),
            offset=offset,
            raw_base64=base64.b64encode(raw[offset : offset + PIECE]).decode(),
        )
