"""The catalog's documents are valid according to their schemas, up to date, and complete."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from orchestrator.cli.main import run
from orchestrator.contracts.schemas import sample_event, schema_of
from orchestrator.definition.catalog import Catalog
from orchestrator.documents.asyncapi import asyncapi
from orchestrator.documents.diagram import diagram_of
from orchestrator.documents.pages import files_of, page, stale
from orchestrator.documents.tables import tables_of
from orchestrator.documents.typescript import typescript
from orchestrator.documents.walk import walk
from orchestrator.protocol.messages.envelope import wrap
from tests import chain, orchestrators
from tests.docs.markdown import ROOT
from tests.swarm import CATALOG as SWARM

APPLICATION = Catalog.discover(["events", "activities", "workflows"])
CAST = Catalog.discover(["tests.cast", "tests.orchestrators"])
CHAIN = chain.CATALOG
_CODES = re.compile(r"`(\w+\.\w+)`")
CATALOGS = pytest.mark.parametrize(
    "catalog", [APPLICATION, CAST, SWARM, CHAIN], ids=["application", "cast", "swarm", "chain"]
)


@CATALOGS
def test_the_asyncapi_document_is_valid(catalog: Catalog) -> None:
    # https://github.com/asyncapi/spec-json-schemas, 3.0.0, without descriptions and examples.
    schema = json.loads(gzip.decompress((Path(__file__).parent / "asyncapi-3.0.0.json.gz").read_bytes()))
    validator: Any = Draft7Validator(schema)
    document = asyncapi(catalog, title="Test", version="1.0.0")

    assert [error.message for error in validator.iter_errors(document)] == []
    assert list(validator.iter_errors({**document, "channels": 7}))


@CATALOGS
def test_an_example_of_each_event_is_valid_by_the_documents_schemas(catalog: Catalog) -> None:
    document: dict[str, Any] = asyncapi(catalog, title="Test", version="1.0.0")
    for name, event in catalog.events.items():
        sample = sample_event(event)
        assert sample is not None, name
        envelope = json.loads(wrap(sample, event_id="e", source="test").text)
        fields: Any = Draft202012Validator(schema_of(event))
        whole: Any = Draft202012Validator(
            {**document["components"]["schemas"][name], "components": document["components"]}
        )
        fields.validate(envelope["data"])
        whole.validate(envelope)


@CATALOGS
def test_each_event_and_orchestrator_is_in_the_documents(catalog: Catalog) -> None:
    markdown, types = page(catalog, "Test"), typescript(catalog)

    for name, event in catalog.events.items():
        assert f"schemas/{name}.v{event.version}.json" in markdown
        assert f"export type {event.__name__} = " in types
    for name, orchestrator in catalog.orchestrators.items():
        assert f"\n## {name}\n" in markdown
        assert orchestrator.completed.type_name() in diagram_of(catalog, orchestrator)


def test_every_walk_through_an_orchestrator_of_the_application_reaches_its_end() -> None:
    walks = {
        name: walk(APPLICATION, orchestrator, orchestrator.requests[0])
        for name, orchestrator in APPLICATION.orchestrators.items()
    }

    assert {name: steps.ended for name, steps in walks.items() if steps.ended} == {}
    assert all(steps.steps for steps in walks.values())


def test_both_branches_of_handle_are_in_the_catalog() -> None:
    """A result decides the branch: whether a month is due, or whether an amount is an income or an expense."""
    lines = page(APPLICATION, "Test").splitlines()
    rows = {line.split(" | ")[1]: line for line in lines if line.startswith("| ") and " or " in line}

    assert "snapshot.save_month" in rows["MonthReset"]
    assert "snapshot.save_month" in diagram_of(APPLICATION, APPLICATION.orchestrators["MonthReset"])
    for name in ("CategoryTransaction", "ActivityRecordRemoval"):
        assert "account.deposit" in rows[name]
        assert "account.withdraw" in rows[name]


def test_the_catalog_lists_the_refusals_of_each_orchestrator() -> None:
    markdown = page(APPLICATION, "Test")
    documented = (ROOT / "docs" / "smartexpense.md").read_text().partition("## Error codes")[2]
    codes = set(re.findall(r"`((?:account|category|activity_log|currency)\.\w+)`", documented))

    assert "Can be refused with `account.already_exists`, `account.not_found`." in markdown
    assert "Can be refused with `currency.not_chosen`, `currency.rate_unknown`." in markdown
    assert codes == {
        code for line in markdown.splitlines() for code in _CODES.findall(line) if "Can be refused" in line
    }


def test_a_diagram_shows_the_event_and_the_undo_in_reverse_order() -> None:
    lines = [line.strip() for line in diagram_of(CAST, orchestrators.CoinsMove).splitlines()]

    assert lines[:2] == ["flowchart TD", 'begins(["COINS_MOVE_REQUESTED"])']
    undo_lines = [line for line in lines if line.startswith("undo")]
    assert undo_lines[-1] == 'undo1 -.-> failed(["COINS_MOVE_FAILED"])'


def test_an_orchestrator_of_several_events_is_shown_for_each_of_them() -> None:
    lines = [line.strip() for line in diagram_of(CHAIN, chain.ThirdLink).splitlines()]
    markdown = page(CHAIN, "Test")
    document = asyncapi(CHAIN, title="Test", version="1.0.0")

    assert 'begins(["SECOND_LINK_COMPLETED"])' in lines
    assert 'of2_begins(["SECOND_LINK_FAILED"])' in lines
    assert 'of2_step1 --> completed(["THIRD_LINK_COMPLETED"])' in lines
    for name in ("SECOND_LINK_COMPLETED", "SECOND_LINK_FAILED"):
        assert f"| {name} v1 | ThirdLink | cast.write_note |" in markdown
        assert f"ThirdLink.receives.{name}" in document["operations"]


def test_tables_used_by_helper_functions_and_compensations_are_found() -> None:
    tables = {name: tables_of(operation) for name, operation in APPLICATION.operations.items()}

    assert tables["account.withdraw"] == ["account"]
    assert tables["activity_log.record_transfer"] == ["activity_record"]


def test_the_catalog_in_docs_is_up_to_date() -> None:
    files = files_of(APPLICATION, title="SmartExpense", version="1.0.0")

    assert stale(files, ROOT / "docs" / "catalog") == [], "write it: orchestrator catalog --write"


def test_an_outdated_or_superfluous_file_is_reported_and_corrected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["--folder", str(tmp_path)]
    assert run(["catalog", "--check", *folder]) == 1
    assert "asyncapi.json" in capsys.readouterr().out.replace("\n", "")
    assert run(["catalog", "--write", *folder]) == 0
    (tmp_path / "schemas" / "GONE.v1.json").write_text("{}")
    capsys.readouterr()
    assert run(["catalog", "--check", *folder]) == 1
    assert "GONE.v1.json" in capsys.readouterr().out.replace("\n", "")
    assert run(["catalog", "--write", *folder]) == 0
    assert run(["catalog", "--check", *folder]) == 0


def test_a_diagram_is_printed_and_an_unknown_name_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diagram", "MoneyTransfer"]) == 0
    assert capsys.readouterr().out.startswith("flowchart TD")
    assert run(["diagram", "Nobody"]) == 2
    assert "MoneyTransfer" in capsys.readouterr().err
