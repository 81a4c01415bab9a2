"""Short fingerprints of events, so that a lookup can name all events of the last minute that a client already has."""

import base64
from collections.abc import Iterable
from hashlib import blake2b

FINGERPRINTS_LIMIT = 100_000
"""The most fingerprints in one lookup or reply. As text they take 1 MiB; it is a minute of 1,600 events a second."""
_BYTES = 8
"""The bytes of one fingerprint. Among a hundred thousand events, one in 10^14 is mistaken for another."""


def fingerprint(key: str) -> bytes:
    """Return the fingerprint of an event.

    Args:
        key: the event's type and id.
    """
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_BYTES).digest()


def pack(fingerprints: Iterable[bytes]) -> str:
    """Write fingerprints as one text."""
    return base64.b64encode(b"".join(fingerprints)).decode()


def unpack(packed: str) -> frozenset[bytes]:
    """Read the fingerprints in a text that `pack` wrote."""
    raw = base64.b64decode(packed)
    return frozenset(raw[first : first + _BYTES] for first in range(0, len(raw), _BYTES))
