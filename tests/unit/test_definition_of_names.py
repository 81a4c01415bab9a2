"""Event names begin with a registered subject and end with a past participle, and old versions have upcasters."""

from typing import Any

import pytest

from orchestrator import DefinitionError, DomainEvent, Fields, upcaster
from orchestrator.definition.catalog import Catalog
from orchestrator.definition.events import problems_of_event
from orchestrator.definition.names import check_names, problems_of_names
from orchestrator.protocol.messages.event_ids import new_event_id
from workflows.money_transfer import MoneyTransfer

EVERYTHING = ["events", "activities", "workflows"]


def named(name: str, **values: Any) -> type[DomainEvent]:
    """An event of the account domain."""
    return type(name, (DomainEvent,), {"__module__": "events.account", **values})


@pytest.mark.parametrize("name", ["AccountOpened", "AccountsMerged", "MoneyTransferRequested", "AccountHeld"])
def test_a_name_of_a_subject_and_a_past_participle_is_accepted(name: str) -> None:
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
def test_another_name_is_refused_with_the_rule_and_the_fix(name: str, part: str) -> None:
    [problem] = problems_of_names([named(name)], [], [MoneyTransfer])

    assert part in problem.text


def test_a_catalog_of_contracts_alone_needs_no_registered_processes() -> None:
    assert not list(problems_of_names([named("MoneyTransferRequested")], [], []))
    assert Catalog.discover(["events"]).events


def test_the_application_follows_the_naming_rules() -> None:
    check_names(Catalog.discover(EVERYTHING))


def test_each_wrong_name_is_a_definition_fault() -> None:
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
def test_upcasters_that_do_not_lead_to_the_current_version_are_refused(values: dict[str, Any], part: str) -> None:
    assert any(part in problem.text for problem in problems_of_event(named("AccountOpened", **values)))


def test_a_generated_event_id_is_a_version_7_uuid_and_sorts_by_time() -> None:
    ids = [new_event_id() for _ in range(1_000)]

    assert len(set(ids)) == 1_000
    assert {event_id[14] for event_id in ids} == {"7"}
    assert {event_id[19] for event_id in ids} <= set("89ab")
    assert [event_id[:13] for event_id in ids] == sorted(event_id[:13] for event_id in ids)
