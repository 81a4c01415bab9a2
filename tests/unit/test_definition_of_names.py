"""Names of events say whose they are, and that they have happened; and old versions have their upcasters."""

from typing import Any

import pytest

from orchestrator import DefinitionError, DomainEvent, Fields, upcaster
from orchestrator.definition.catalog import Catalog
from orchestrator.definition.events import problems_of_event
from orchestrator.definition.names import check_names, problems_of_names
from orchestrator.protocol.event_ids import new_event_id
from workflows.money_transfer import MoneyTransfer

EVERYTHING = ["events", "activities", "workflows"]


def named(name: str, **values: Any) -> type[DomainEvent]:
    """An event of the account domain."""
    return type(name, (DomainEvent,), {"__module__": "events.account", **values})


@pytest.mark.parametrize("name", ["AccountOpened", "AccountsMerged", "MoneyTransferRequested", "AccountHeld"])
def test_a_subject_and_a_past_participle_are_a_name(name: str) -> None:
    assert not list(problems_of_names([named(name)], [], [MoneyTransfer]))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("GoalReached", "does not start with a registered subject: ACCOUNT, MONEY_TRANSFER. Start its name with one"),
        ("Accounted", "does not start with a registered subject"),
        ("AccountOpening", "still going on"),
        ("AccountClosing", "use the past tense, as in AccountClosingRequested"),
    ],
)
def test_other_names_are_told_with_the_rule_and_the_fix(name: str, part: str) -> None:
    [problem] = problems_of_names([named(name)], [], [MoneyTransfer])

    assert part in problem.text


def test_who_has_contracts_alone_is_not_asked_for_processes() -> None:
    assert not list(problems_of_names([named("MoneyTransferRequested")], [], []))
    assert Catalog.discover(["events"]).events


def test_the_application_keeps_to_it() -> None:
    check_names(Catalog.discover(EVERYTHING))


def test_each_name_that_does_not_is_a_fault_of_definition() -> None:
    with pytest.raises(DefinitionError, match="2 problems"):
        check_names(Catalog.of(orchestrators=[], events=[named("AccountOpening"), named("AccountClosing")]))


def _same(fields: Fields) -> Fields:
    return fields


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"version": 1, "up": staticmethod(upcaster(1)(_same))}, "begin with an older version"),
        ({"version": 3, "up": staticmethod(upcaster(1)(_same))}, "has no upcaster from version 2 to 3"),
    ],
)
def test_upcasters_that_do_not_lead_to_todays_version_are_told(values: dict[str, Any], part: str) -> None:
    assert any(part in problem.text for problem in problems_of_event(named("AccountOpened", **values)))


def test_an_id_that_is_made_up_is_a_uuid_of_version_7_and_sorts_by_time() -> None:
    ids = [new_event_id() for _ in range(1_000)]

    assert len(set(ids)) == 1_000
    assert {one[14] for one in ids} == {"7"}
    assert {one[19] for one in ids} <= set("89ab")
    assert [one[:13] for one in ids] == sorted(one[:13] for one in ids)
