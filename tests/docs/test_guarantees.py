"""Each promise in docs/guarantees.md names what keeps it and tests that are there."""

import re

import pytest

from orchestrator.operation import DEFAULT_DEADLINE
from orchestrator.protocol.commands import STUCK_AFTER
from orchestrator.settings import Settings
from orchestrator.worker.activities import FEWEST_ATTEMPTS
from orchestrator.workflow.local_first import ATTEMPT, HEARTBEAT, LOCAL, LOCAL_ATTEMPTS
from tests.docs.markdown import Document, code_in
from tests.docs.names import exists

GUARANTEES = Document("docs/guarantees.md")
PROMISES = GUARANTEES.table("promise")


@pytest.mark.parametrize("row", PROMISES, ids=lambda row: row[0][:60])
def test_each_promise_names_its_mechanism_and_tests_that_are_there(row: list[str]) -> None:
    promise, mechanism, proof = row

    assert promise
    assert mechanism
    named = code_in(proof)
    assert named
    assert [name for name in named if not name.startswith("test_") or not exists(name)] == []


def test_there_are_as_many_promises_as_the_design_has_mechanisms() -> None:
    told = " ".join(row[1] for row in PROMISES)

    for mechanism in ("fence", "guard", "turn", "finish", "inbox", "recovery"):
        assert f"**{mechanism}**" in told


def test_every_test_that_is_named_anywhere_is_there() -> None:
    named = re.findall(r"`(test_\w+)`", GUARANTEES.text)

    assert len(named) > 25
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


def test_times_and_numbers_are_those_of_the_engine() -> None:
    words = {2: "two", 3: "three", 4: "four", 5: "five"}

    assert f"{words[DEFAULT_DEADLINE.seconds // 60]} minutes if it does not say otherwise" in GUARANTEES.text
    assert f"at least {words[FEWEST_ATTEMPTS]} attempts" in GUARANTEES.text
    assert f"After {words[STUCK_AFTER]} failures" in GUARANTEES.text
    assert f"An attempt may take {ATTEMPT.seconds} seconds" in GUARANTEES.text
    assert f"after {words[HEARTBEAT.seconds]} seconds without a heartbeat" in GUARANTEES.text
    assert f"{words[LOCAL_ATTEMPTS]} times within a second" in GUARANTEES.text
    assert LOCAL.total_seconds() == 1
    recovery = Settings()
    assert f"every {recovery.recovery_interval} seconds and looks at sagas without progress for" in GUARANTEES.text
    assert f"without progress for {recovery.recovery_grace}." in GUARANTEES.text
