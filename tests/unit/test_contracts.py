"""The lock of published contracts: what may change, what may not, and what is said about it."""

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
    """A value."""

    number: int


class Sent(DomainEvent):
    """As it was published."""

    size: Annotated[int, Field(ge=1, le=10)]
    colour: Literal["red", "blue"]
    inner: Inner
    note: str = ""


class Looser(Contract):
    """A value with more."""

    number: int
    more: int = 0


class Wider(DomainEvent):
    """More is valid, and what was stays as it was."""

    size: Annotated[int, Field(ge=0, le=11)] = 5
    colour: Literal["blue", "red", "green"]
    inner: Looser
    note: str = ""
    extra: int | None = None


def changed(**changes: Any) -> Mapping[str, Any]:
    """The published schema with other fields; None takes one out."""
    schema: dict[str, Any] = json.loads(json.dumps(schema_of(Sent)))
    for name, change in changes.items():
        if change is None:
            del schema["properties"][name]
        else:
            schema["properties"][name] = change
    return schema


def test_what_widens_a_contract_is_compatible_and_the_other_way_round_is_not() -> None:
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
def test_what_makes_stored_payloads_invalid_or_mean_something_else_is_told_by_its_place(
    now: Mapping[str, Any], part: str
) -> None:
    assert any(part in one for one in incompatibilities(schema_of(Sent), now))


def texts(found: list[Finding]) -> list[str]:
    """By event."""
    return [f"{one.event_type} {one.text}" for one in found]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder with version 1 published."""
    assert accept(before.CATALOG, {}, tmp_path / "contracts.json", tmp_path / "payloads") == []
    return tmp_path


def check(catalog: Catalog, folder: Path) -> list[Finding]:
    """The findings in a folder."""
    return findings(catalog, read_lock(folder / "contracts.json"), folder / "payloads")


def test_what_is_accepted_is_published_with_a_sample_of_each_event(published: Path) -> None:
    assert check(before.CATALOG, published) == []
    assert {file.parent.name for file in published.glob("payloads/*/v1.json")} == set(before.CATALOG.events)


def test_a_new_version_with_its_upcaster_is_accepted_and_the_old_samples_are_read_by_it(published: Path) -> None:
    assert {one.is_refused for one in check(after.CATALOG, published)} == {False}

    lock = published / "contracts.json"
    assert accept(after.CATALOG, read_lock(lock), lock, published / "payloads") == []

    assert check(after.CATALOG, published) == []
    assert set(read_lock(lock)["CRATE_MOVE_REQUESTED"]) == {"1", "2"}


def test_an_incompatible_change_is_refused_with_the_difference_and_what_to_do(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(after.CrateMoveRequested, "version", 1)

    refused = next(one for one in check(after.CATALOG, published) if one.event_type == "CRATE_MOVE_REQUESTED")

    assert refused.is_refused
    assert "coins: type was integer and is object" in refused.text
    assert "`version = 2`" in refused.text
    assert "@upcaster(1)" in refused.text
    assert '-   "type": "integer"' in refused.difference
    lock = (published / "contracts.json").read_text()
    assert accept(after.CATALOG, json.loads(lock)["events"], published / "contracts.json", published / "payloads")
    assert (published / "contracts.json").read_text() == lock


def test_a_version_without_its_upcaster_one_that_went_back_and_an_event_that_is_gone_are_refused(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(before.CrateMoveRequested, "version", 2)
    assert "has no upcaster from version 1" in texts(check(before.CATALOG, published))[0]
    monkeypatch.undo()
    lock = published / "contracts.json"
    accept(after.CATALOG, read_lock(lock), lock, published / "payloads")
    assert any("but version 2 was published" in one for one in texts(check(before.CATALOG, published)))
    nothing = Catalog.of(orchestrators=[])
    assert any("is no longer in the code" in one for one in texts(check(nothing, published)))


def test_a_stored_payload_that_cannot_be_read_any_more_is_told(published: Path) -> None:
    kept = published / "payloads" / "CRATE_MOVE_REQUESTED" / "v1-from-production.json"
    kept.write_text((kept.parent / "v1.json").read_text().replace('"coins": 1', '"coins": "1"'))

    [found] = check(before.CATALOG, published)

    assert found.is_refused
    assert "v1-from-production.json" in found.text
    assert "coins" in found.text


def test_each_event_of_the_application_has_a_sample_of_its_own() -> None:
    events = Catalog.discover(["events", "activities", "workflows"]).events.values()

    assert [event.type_name() for event in events if sample_event(event) is None] == []


def test_the_command_refuses_and_the_accepting_one_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_PACKAGES", "tests.versions.before,tests.cast")
    places = ["--file", str(tmp_path / "contracts.json"), "--payloads", str(tmp_path / "payloads")]

    assert run(["contracts", *places]) == 1
    assert "CRATE_MOVE_REQUESTED is new: accept it." in capsys.readouterr().out
    assert run(["contracts", "--accept", *places]) == 0
    assert run(["contracts", *places]) == 0
