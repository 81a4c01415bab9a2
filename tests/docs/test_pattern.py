"""docs/pattern.md has a row for every part of the orchestrator pattern, and every name in it exists."""

import pytest

from tests.docs.markdown import Document, code_in
from tests.docs.names import exists
from tests.docs.pattern_parts import PARTS

PATTERN = Document("docs/pattern.md")
SHOWN_AS_WRITTEN = {
    "parallel=True": "an option of `orchestrator.Saga.execute_all`",
    "async def": "Python",
    "handle": "the author's method",
    "stop": "a parameter of `orchestrator.worker.Manager.run`",
    "python worker.py": "a command; the file is looked up beside it",
    "@query": "a decorator, as an author writes it",
    "Refused": "the exception, as a test writes it",
    "MoneyTransferRequested": "a class as an example of its name",
}
"""Names that cannot be looked up, each with the reason."""


def _tables() -> dict[str, list[list[str]]]:
    tables: dict[str, list[list[str]]] = {}
    for section in PATTERN.text.split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
        tables[heading] = [[cell.strip() for cell in row] for row in rows[1:]]
    return tables


TABLES = _tables()


def test_it_has_the_sections_of_the_pattern_in_the_same_order() -> None:
    assert list(TABLES) == list(PARTS)


@pytest.mark.parametrize("section", PARTS)
def test_it_has_a_row_for_every_part(section: str) -> None:
    assert [row[0] for row in TABLES[section]] == list(PARTS[section])


@pytest.mark.parametrize("section", PARTS)
def test_every_row_has_an_answer_and_names_its_place(section: str) -> None:
    for row in TABLES[section]:
        part, answer, where = row
        assert answer, part
        assert code_in(where), part


@pytest.mark.parametrize("section", PARTS)
def test_every_name_exists(section: str) -> None:
    named = [name for row in TABLES[section] for cell in row[1:] for name in code_in(cell)]

    assert [name for name in named if name not in SHOWN_AS_WRITTEN and not exists(name)] == []


def test_every_exception_is_used_and_necessary() -> None:
    used = {name for rows in TABLES.values() for row in rows for cell in row[1:] for name in code_in(cell)}

    assert set(SHOWN_AS_WRITTEN) - used == set()
    assert [name for name in SHOWN_AS_WRITTEN if exists(name)] == []


def test_a_feature_that_is_announced_does_not_exist_yet() -> None:
    for name in ("orchestrator pause", "orchestrator resume", "orchestrator health"):
        assert not exists(name), f"{name} exists: say so in docs/pattern.md"
