"""The names that an author imports. `tests/docs/test_glossary.py` checks that each has its glossary term."""

from types import ModuleType

import pytest

import orchestrator
from orchestrator import testing


@pytest.mark.parametrize("package", [orchestrator, testing], ids=lambda package: package.__name__)
def test_each_public_name_can_be_imported_and_is_documented(package: ModuleType) -> None:
    """Some names are imported lazily, so a name in `__all__` proves nothing by itself."""
    imported: dict[str, object] = {}
    exec(f"from {package.__name__} import *", imported)

    assert {name for name in imported if not name.startswith("__")} == set(package.__all__)
    assert [name for name in package.__all__ if not imported[name].__doc__] == []
