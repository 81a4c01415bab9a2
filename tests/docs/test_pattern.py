"""docs/pattern.md has a line for every part of the orchestrator pattern, and every name in it exists."""

import pytest

from tests.docs.markdown import Document, code_in
from tests.docs.names import exists
from tests.docs.pattern_parts import PARTS

PATTERN = Document("docs/pattern.md")
SHOWN_AS_WRITTEN = {
    "parallel=True": "an option of `orchestrator.Saga.execute_batch`",
    "async def": "Python",
    "handle": "the author's method",
    "stop": "a parameter of `orchestrator.worker.Manager.run`",
    "python worker.py": "a command; the file is looked up beside it",
    "@query": "a decorator, as an author writes it",
    "Refused": "the exception, as a test writes it",
    "MoneyTransferRequested": "a class as an example of its name",
}
"""What is no name to be looked up, and why."""


def _tables() -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    for section in PATTERN.text.split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
        found[heading] = [[cell.strip() for cell in row] for row in rows[1:]]
    return found


TABLES = _tables()


def test_it_has_the_patterns_sections_in_the_patterns_order() -> None:
    assert list(TABLES) == list(PARTS)


@pytest.mark.parametrize("section", PARTS)
def test_it_has_a_line_for_every_part(section: str) -> None:
    assert [row[0] for row in TABLES[section]] == list(PARTS[section])


@pytest.mark.parametrize("section", PARTS)
def test_every_line_says_what_answers_and_where(section: str) -> None:
    for row in TABLES[section]:
        part, answer, where = row
        assert answer, part
        assert code_in(where), part


@pytest.mark.parametrize("section", PARTS)
def test_every_name_exists(section: str) -> None:
    named = [name for row in TABLES[section] for cell in row[1:] for name in code_in(cell)]

    assert [name for name in named if name not in SHOWN_AS_WRITTEN and not exists(name)] == []


def test_nothing_is_excused_that_is_not_there() -> None:
    used = {name for rows in TABLES.values() for row in rows for cell in row[1:] for name in code_in(cell)}

    assert set(SHOWN_AS_WRITTEN) - used == set()
    assert [name for name in SHOWN_AS_WRITTEN if exists(name)] == []


def test_what_is_marked_as_later_is_not_there_yet() -> None:
    for name in ("orchestrator pause", "orchestrator resume", "orchestrator health"):
        assert not exists(name), f"{name} is there: say so in docs/pattern.md"
