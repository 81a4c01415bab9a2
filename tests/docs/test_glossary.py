"""The glossary is the authority for the project's words: what it names exists, and every public name is in it."""

import importlib
import re

import pytest

import orchestrator
from tests.docs.markdown import Document, code_in

GLOSSARY = Document("docs/glossary.md")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in GLOSSARY.text.splitlines()
    if re.match(r"\| (?!term|-)", line)
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_term_names_a_module_or_a_name_that_exists(row: list[str]) -> None:
    term, meaning, where = row
    names = code_in(where)

    assert term
    assert meaning.endswith(".")
    assert names
    assert [name for name in names if not _exists(name)] == []


def test_a_term_is_defined_once() -> None:
    terms = [row[0] for row in ROWS]

    assert len(terms) == len(set(terms))


def test_every_public_name_belongs_to_a_term() -> None:
    named = {name for row in ROWS for name in code_in(row[2])}

    assert [name for name in orchestrator.__all__ if f"orchestrator.{name}" not in named] == []


def _exists(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        module, _, attribute = name.rpartition(".")
        return hasattr(importlib.import_module(module), attribute)
    return True
