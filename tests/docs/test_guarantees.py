"""Each promise in docs/guarantees.md names its mechanism and tests that exist."""

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
def test_each_promise_names_its_mechanism_and_tests_that_exist(row: list[str]) -> None:
    promise, mechanism, proof = row

    assert promise
    assert mechanism
    named = code_in(proof)
    assert named
    assert [name for name in named if not name.startswith("test_") or not exists(name)] == []


def test_every_named_test_exists() -> None:
    named = re.findall(r"`(test_\w+)`", GUARANTEES.text)

    assert named
    assert [name for name in named if not exists(name)] == []


def test_every_python_name_exists() -> None:
    named = [name for name in code_in(GUARANTEES.prose) if name.startswith("orchestrator.")]

    assert named
    assert [name for name in named if not exists(name)] == []


def test_a_missing_name_is_noticed() -> None:
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
def test_a_time_or_number_is_that_of_the_engine(row: list[str]) -> None:
    _, value, where = row
    [name] = code_in(where)
    module, _, attribute = name.rpartition(".")

    engine_value = getattr(Settings() if name.startswith(SETTINGS) else import_module(module), attribute)

    seconds = engine_value.total_seconds() if isinstance(engine_value, timedelta) else engine_value
    assert value == (
        f"{seconds:g} s" if isinstance(engine_value, timedelta) or name.startswith(SETTINGS) else f"{engine_value}"
    )
