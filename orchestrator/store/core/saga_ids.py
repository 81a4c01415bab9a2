"""Passes any number of saga ids as one parameter, `:sagas`, so that a statement's text never changes."""

import json
from collections.abc import Iterable
from uuid import UUID

OF_SAGAS = {
    "postgresql": "(SELECT CAST(value AS uuid) FROM json_array_elements_text(CAST(:sagas AS json)))",
    "sqlite": "(SELECT value FROM json_each(:sagas))",
}
"""The right-hand side of `IN`, by dialect."""


def ids_as_json(dialect: str, sagas: Iterable[UUID]) -> str:
    """Return the value of the parameter `:sagas`, with each id in the form in which that database stores it."""
    return json.dumps([key.hex if dialect == "sqlite" else str(key) for key in sagas])
