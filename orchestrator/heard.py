"""Which events somebody has heard of, as short fingerprints: a minute's worth of them fits into one question.

Knows neither Temporal nor SQL.
"""

import base64
from collections.abc import Iterable
from hashlib import blake2b

MOST_HEARD = 100_000
"""Fingerprints in one question or answer: 1 MiB as text. It is a minute of 1,600 events a second."""
_BYTES = 8
"""Of one fingerprint: among a hundred thousand, one in 10^14 events would be taken for another."""


def fingerprint(key: str) -> bytes:
    """An event's fingerprint.

    Args:
        key: its type and its id.
    """
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_BYTES).digest()


def pack(fingerprints: Iterable[bytes]) -> str:
    """Fingerprints as text."""
    return base64.b64encode(b"".join(fingerprints)).decode()


def unpack(packed: str) -> frozenset[bytes]:
    """What `pack` was given."""
    raw = base64.b64decode(packed)
    return frozenset(raw[first : first + _BYTES] for first in range(0, len(raw), _BYTES))
