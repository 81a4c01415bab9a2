"""Ids that are made up for events: UUIDs of version 7 (RFC 9562), which sort by when they were made."""

import secrets
from time import time_ns
from uuid import UUID

_VERSION = 0x7 << 76
_VARIANT = 0b10 << 62


def new_event_id() -> str:
    """A new id: 48 bits of milliseconds since 1970, then 74 bits of chance."""
    milliseconds = time_ns() // 1_000_000
    return str(
        UUID(int=(milliseconds << 80) | _VERSION | (secrets.randbits(12) << 64) | _VARIANT | secrets.randbits(62))
    )
