"""Dead letters: messages that could not be read or routed, each with its origin and the reason.

A workflow sends a dead letter in pieces, because an activity argument over 2 MiB would fail the workflow task forever.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

PIECE = 512 * 1024
"""The most bytes in a piece. In Base64 that is 683 KiB, far below Temporal's limit of 2 MiB."""


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message as it arrived."""

    source: str
    """How it arrived; see `names.EVENT_SOURCES`."""
    position: int
    """The number of messages that had arrived at the same place, such as a run, including this one."""
    raw: bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be read or routed. Its origin and its position identify it."""

    message: Inbound
    code: str
    reason: str
    workflow_id: str
    """The id of the execution to which the message was sent, or a substitute if there is none."""
    run_id: str
    """The run of that execution, or a substitute."""


class DeadLetterPiece(BaseModel):
    """One piece of a dead letter that a workflow sends to the activity that stores it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    position: int
    code: str
    reason: str
    size: int
    """The size of the whole message in bytes."""
    offset: int
    """The position of this piece in the message, in bytes."""
    raw_base64: str

    def of_run(self, workflow_id: str, run_id: str) -> DeadLetter:
        """Return this piece as a dead letter of the run that sent it."""
        message = Inbound(self.source, self.position, base64.b64decode(self.raw_base64))
        return DeadLetter(message, self.code, self.reason, workflow_id, run_id)


def pieces(message: Inbound, code: str, reason: str) -> Iterator[DeadLetterPiece]:
    """Split a message into pieces; an empty message gives one empty piece."""
    for offset in range(0, max(len(message.raw), 1), PIECE):
        yield DeadLetterPiece(
            source=message.source,
            position=message.position,
            code=code,
            reason=reason,
            size=len(message.raw),
            offset=offset,
            raw_base64=base64.b64encode(message.raw[offset : offset + PIECE]).decode(),
        )
