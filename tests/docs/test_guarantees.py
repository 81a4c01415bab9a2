"""Each promise in docs/guarantees.md names what keeps it and tests that are there."""

import re
from datetime import timedelta
from importlib import import_module

import pytest

from orchestrator.settings import Settings
from tests.docs.markdown import Document, code_in
from tests.docs.names import exists

GUARANTEES = Document("docs/guarantees.md")
PROMISES = GUARANTEES.table("promise")
SETTINGS = "orchestrator.settings.Settings."


@pytest.mark.parametrize("row", PROMISES, ids=lambda row: row[0][:60])
def test_each_promise_names_its_mechanism_and_tests_that_are_there(row: list[str]) -> None:
    promise, mechanism, proof = row

    assert promise
    assert mechanism
    named = code_in(proof)
    assert named
    assert [name for name in named if not name.startswith("test_") or not exists(name)] == []


def test_every_test_that_is_named_anywhere_is_there() -> None:
    named = re.findall(r"`(test_\w+)`", GUARANTEES.text)

    assert named
    assert [name for name in named if not exists(name)] == []


def test_python_names_are_there() -> None:
    named = [name for name in code_in(GUARANTEES.prose) if name.startswith("orchestrator.")]

    assert named
    assert [name for name in named if not exists(name)] == []


def test_a_name_that_is_not_there_is_noticed() -> None:
    for name in (
        "test_that_nobody_wrote",
        "orchestrator.Saga.lock",
        "orchestrator.nothing",
        "make nothing",
        "orchestrator pause",
        "docs/nothing.md",
        "nothing",
    ):
        assert not exists(name), name


@pytest.mark.parametrize("row", GUARANTEES.table("time or number"), ids=lambda row: row[0])
def test_a_time_or_number_is_the_engines(row: list[str]) -> None:
    _, value, where = row
    [name] = code_in(where)
    module, _, attribute = name.rpartition(".")

    found = getattr(Settings() if name.startswith(SETTINGS) else import_module(module), attribute)

    seconds = found.total_seconds() if isinstance(found, timedelta) else found
    assert value == (f"{seconds:g} s" if isinstance(found, timedelta) or name.startswith(SETTINGS) else f"{found}")
