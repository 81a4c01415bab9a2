"""An application that uses one of the engine's names is refused before anything starts."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Column, Index, Integer, MetaData, Table, UniqueConstraint
from temporalio import workflow

from orchestrator import Orchestrator
from orchestrator.definition.checks.tables import problems_of_tables
from orchestrator.definition.orchestrators import NAME_LIMIT, PARTITIONS_LIMIT, problems_of_orchestrator
from orchestrator.errors import Problem
from orchestrator.protocol.messages.envelope import valid_event_id
from orchestrator.protocol.names import is_partition, own_workflow_id, partition_workflow_id
from orchestrator.protocol.reserved_names import ACTIVITY_PREFIX, TABLE_PREFIX, WORKFLOWS
from orchestrator.store.core.schema import metadata
from orchestrator.store.migrations.migrate import VERSION_TABLE
from orchestrator.workflow.system import lookup as answers
from orchestrator.workflow.system import publish as publishing
from orchestrator.workflow.system import recovery, scheduled


def problems_in(*tables: tuple[str, str | None]) -> list[str]:
    """The problems of tables with these names and schemas."""
    declared = MetaData()
    for name, schema in tables:
        Table(name, declared, Column("id", Integer, primary_key=True), schema=schema)
    return [problem.text for problem in problems_of_tables(declared)]


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        *((name, None) for name in (*metadata.tables, VERSION_TABLE, "saga_of_ours")),
        ("Saga", None),
        ("SAGA_STEP", None),
        ("saga", "public"),
        ("saga", "main"),
    ],
)
def test_a_table_with_a_reserved_name_is_refused_with_the_correct_form(name: str, schema: str | None) -> None:
    [problem] = problems_in((name, schema))

    assert problem.startswith(f"the table {name} has a name that is reserved for the engine")
    assert f'__tablename__ = "our_{name.lower()}"' in problem


@pytest.mark.parametrize(("name", "schema"), [("sagas", None), ("our_saga", None), ("saga", "shop"), ("stock", None)])
def test_a_table_with_another_name_is_accepted(name: str, schema: str | None) -> None:
    assert problems_in((name, schema)) == []


def test_an_index_or_a_constraint_with_a_reserved_name_is_refused() -> None:
    declared = MetaData()
    stock = Table("stock", declared, Column("id", Integer), UniqueConstraint("id", name="uq_saga_dead_letter_origin"))
    Index("IX_saga_unfinished", stock.c.id)

    problems = [problem.text for problem in problems_of_tables(declared)]

    assert [text.partition(",")[0] for text in problems] == [
        "the table stock has an index or a constraint IX_saga_unfinished",
        "the table stock has an index or a constraint uq_saga_dead_letter_origin",
    ]


def test_two_tables_whose_names_differ_only_in_case_need_different_schemas() -> None:
    assert "differ only in case" in problems_in(("Stock", None), ("stock", None))[0]
    assert problems_in(("Stock", "north"), ("stock", "south")) == []


def problems_of(name: str) -> Iterator[Problem]:
    """The problems of an orchestrator with this name."""
    return problems_of_orchestrator(type(name, (Orchestrator,), {}))


@pytest.mark.parametrize("name", [*sorted(WORKFLOWS), "__temporal_move"])
def test_an_orchestrator_with_a_reserved_name_is_refused(name: str) -> None:
    assert any("rename the class" in problem.text and name in problem.text for problem in problems_of(name))


def test_every_name_that_the_engine_uses_is_reserved() -> None:
    defined = [publishing.PublishEvent, scheduled.ScheduledPublish, recovery.SagaRecovery, answers.SagaLookups]
    assert {workflow._Definition.must_from_class(workflow_class).name for workflow_class in defined} == WORKFLOWS  # pyright: ignore[reportPrivateUsage]
    assert all(name == "saga" or name.startswith(TABLE_PREFIX) for name in (*metadata.tables, VERSION_TABLE))
    activities = [publishing.PUBLISH_EVENT, scheduled.PUBLISH_SCHEDULED, recovery.RECOVER, answers.LOOK_UP]
    assert all(name.startswith(ACTIVITY_PREFIX) for name in activities)


def test_a_partitions_workflow_id_is_recognized_with_non_ascii_names() -> None:
    assert is_partition(partition_workflow_id("Überweisung", 3, 8))
    assert not is_partition("Überweisung/event/1")


def test_the_longest_workflow_id_fits_the_column_of_temporals_sql_databases() -> None:
    event_id = "e" * 128
    assert valid_event_id(event_id)
    assert not valid_event_id(f"{event_id}e")
    assert len(own_workflow_id("M" * NAME_LIMIT, event_id)) == 255
    assert len(partition_workflow_id("M" * NAME_LIMIT, PARTITIONS_LIMIT, PARTITIONS_LIMIT)) <= 255
