"""Ids generated for events: version 7 UUIDs (RFC 9562), which sort by creation time."""

import secrets
from time import time_ns
from uuid import UUID

_VERSION = 0x7 << 76
_VARIANT = 0b10 << 62


def new_event_id() -> str:
    """Return a new id, made of 48 bits of milliseconds since 1970 and 74 random bits."""
    milliseconds = time_ns() // 1_000_000
    return str(
        UUID(int=(milliseconds << 80) | _VERSION | (secrets.randbits(12) << 64) | _VARIANT | secrets.randbits(62))
    )
