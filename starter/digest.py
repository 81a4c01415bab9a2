"""A digest of the application's tables, which is equal for two runs that end with the same rows."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from starter.invariants import Snapshot


def digest(tables: Snapshot) -> str:
    """Return the SHA-256 of every row of every table in hexadecimal, without the columns that contain a time."""
    rows = {name: [_plain(row) for row in table.values()] for name, table in tables.items()}
    return hashlib.sha256(json.dumps(_ordered(rows), sort_keys=True).encode()).hexdigest()


def _plain(row: Mapping[str, Any]) -> dict[str, str]:
    return {column: str(value) for column, value in row.items() if not isinstance(value, datetime)}


def _ordered(tables: Mapping[str, Sequence[dict[str, str]]]) -> dict[str, list[dict[str, str]]]:
    return {name: sorted(rows, key=lambda row: json.dumps(row, sort_keys=True)) for name, rows in tables.items()}
