"""Many sagas as one parameter, `:sagas`: a statement's text does not depend on how many, so it is prepared once."""

import json
from collections.abc import Iterable
from uuid import UUID

OF_SAGAS = {
    "postgresql": "(SELECT CAST(value AS uuid) FROM json_array_elements_text(CAST(:sagas AS json)))",
    "sqlite": "(SELECT value FROM json_each(:sagas))",
}
"""By dialect, what stands behind `IN`."""


def ids_as_json(dialect: str, sagas: Iterable[UUID]) -> str:
    """The parameter's value: each id as that database keeps it."""
    return json.dumps([key.hex if dialect == "sqlite" else str(key) for key in sagas])
