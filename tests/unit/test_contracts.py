"""The lock file of published contracts: which changes are accepted and how others are reported."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from orchestrator import Contract, DomainEvent
from orchestrator.cli.main import run
from orchestrator.contracts.compatibility import incompatibilities
from orchestrator.contracts.lock import Finding, accept, findings, read_lock
from orchestrator.contracts.schemas import sample_event, schema_of
from orchestrator.definition.catalog import Catalog
from tests.versions import after, before


class Inner(Contract):
    """A nested value."""

    number: int


class Sent(DomainEvent):
    """The event as it was published."""

    size: Annotated[int, Field(ge=1, le=10)]
    colour: Literal["red", "blue"]
    inner: Inner
    note: str = ""


class Looser(Contract):
    """The nested value with an additional field."""

    number: int
    more: int = 0


class Wider(DomainEvent):
    """A compatible change: more is valid, and what was valid keeps its meaning."""

    size: Annotated[int, Field(ge=0, le=11)] = 5
    colour: Literal["blue", "red", "green"]
    inner: Looser
    note: str = ""
    extra: int | None = None


def changed(**changes: Any) -> Mapping[str, Any]:
    """The published schema with changed fields; None removes one."""
    schema: dict[str, Any] = json.loads(json.dumps(schema_of(Sent)))
    for name, change in changes.items():
        if change is None:
            del schema["properties"][name]
        else:
            schema["properties"][name] = change
    return schema


def test_widening_a_contract_is_compatible_and_narrowing_it_is_not() -> None:
    assert incompatibilities(schema_of(Sent), schema_of(Wider)) == []
    assert incompatibilities(schema_of(Wider), schema_of(Sent)) != []


@pytest.mark.parametrize(
    ("now", "part"),
    [
        (changed(note=None), "note: is gone"),
        ({**changed(), "required": ["size", "colour", "inner", "note"]}, "note: could be left out, and is required"),
        (changed(size={"type": "string"}), "size: type was integer and is string"),
        (changed(size={"type": "integer", "minimum": 2, "maximum": 10}), "size: minimum was 1 and is 2"),
        (changed(colour={"type": "string", "enum": ["red"]}), "colour: enum was"),
        (changed(note={"type": "string", "default": "x"}), "note: default was  and is x"),
        (changed(inner={"type": "object", "properties": {}}), "inner.number: is gone"),
    ],
)
def test_a_change_that_invalidates_or_reinterprets_payloads_is_reported_with_its_place(
    now: Mapping[str, Any], part: str
) -> None:
    assert any(part in text for text in incompatibilities(schema_of(Sent), now))


def texts(found: list[Finding]) -> list[str]:
    """The texts of findings, each with its event type."""
    return [f"{finding.event_type} {finding.text}" for finding in found]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder with version 1 published."""
    assert accept(before.CATALOG, {}, tmp_path / "contracts.json", tmp_path / "payloads") == []
    return tmp_path


def check(catalog: Catalog, folder: Path) -> list[Finding]:
    """The findings for the published contracts in a folder."""
    return findings(catalog, read_lock(folder / "contracts.json"), folder / "payloads")


def test_accepted_contracts_are_published_with_a_sample_of_each_event(published: Path) -> None:
    assert check(before.CATALOG, published) == []
    assert {file.parent.name for file in published.glob("payloads/*/v1.json")} == set(before.CATALOG.events)


def test_a_new_version_with_an_upcaster_that_reads_the_old_samples_is_accepted(published: Path) -> None:
    assert {finding.is_refused for finding in check(after.CATALOG, published)} == {False}

    lock = published / "contracts.json"
    assert accept(after.CATALOG, read_lock(lock), lock, published / "payloads") == []

    assert check(after.CATALOG, published) == []
    assert set(read_lock(lock)["CRATE_MOVE_REQUESTED"]) == {"1", "2"}


def test_an_incompatible_change_is_refused_with_the_difference_and_the_remedy(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(after.CrateMoveRequested, "version", 1)

    refused = next(
        finding for finding in check(after.CATALOG, published) if finding.event_type == "CRATE_MOVE_REQUESTED"
    )

    assert refused.is_refused
    assert "coins: type was integer and is object" in refused.text
    assert "`version = 2`" in refused.text
    assert "@upcaster(1)" in refused.text
    assert '-   "type": "integer"' in refused.difference
    lock = (published / "contracts.json").read_text()
    assert accept(after.CATALOG, json.loads(lock)["events"], published / "contracts.json", published / "payloads")
    assert (published / "contracts.json").read_text() == lock


def test_a_missing_upcaster_a_lower_version_and_a_removed_event_are_refused(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(before.CrateMoveRequested, "version", 2)
    assert "has no upcaster from version 1" in texts(check(before.CATALOG, published))[0]
    monkeypatch.undo()
    lock = published / "contracts.json"
    accept(after.CATALOG, read_lock(lock), lock, published / "payloads")
    assert any("but version 2 was published" in text for text in texts(check(before.CATALOG, published)))
    nothing = Catalog.of(orchestrators=[])
    assert any("is no longer in the code" in text for text in texts(check(nothing, published)))


def test_a_stored_payload_that_can_no_longer_be_read_is_reported(published: Path) -> None:
    payload = published / "payloads" / "CRATE_MOVE_REQUESTED" / "v1-from-production.json"
    payload.write_text((payload.parent / "v1.json").read_text().replace('"coins": 1', '"coins": "1"'))

    [found] = check(before.CATALOG, published)

    assert found.is_refused
    assert "v1-from-production.json" in found.text
    assert "coins" in found.text


def test_each_event_of_the_application_has_a_sample() -> None:
    events = Catalog.discover(["events", "activities", "workflows"]).events.values()

    assert [event.type_name() for event in events if sample_event(event) is None] == []


def test_the_contracts_command_refuses_new_events_until_they_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_PACKAGES", "tests.versions.before,tests.cast")
    options = ["--file", str(tmp_path / "contracts.json"), "--payloads", str(tmp_path / "payloads")]

    assert run(["contracts", *options]) == 1
    assert "CRATE_MOVE_REQUESTED is new: accept it." in capsys.readouterr().out
    assert run(["contracts", "--accept", *options]) == 0
    assert run(["contracts", *options]) == 0
