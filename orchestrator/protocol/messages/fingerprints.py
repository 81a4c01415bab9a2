"""Short fingerprints of events, so that a lookup can list all events of the last minute that a client already has."""

import base64
from collections.abc import Iterable
from hashlib import blake2b

FINGERPRINTS_LIMIT = 100_000
"""The maximum number of fingerprints in one lookup or reply: 1 MiB as text, or one minute of 1,600 events a second."""
_BYTES = 8
"""The bytes per fingerprint. With 100,000 fingerprints, the chance that an event matches one by accident is about 1 in
10^14."""


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
