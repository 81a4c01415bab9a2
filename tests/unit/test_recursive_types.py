"""Recursive contracts, and orchestrators that share a generic base."""

from __future__ import annotations

import asyncio
from abc import ABC
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

import pytest
from sqlalchemy import inspect

from orchestrator import Catalog, Contract, DefinitionError, DomainEvent, FailureEvent, Orchestrator, Saga
from orchestrator.cli.events.fields import fields_of
from orchestrator.contracts.schemas import sample_event, schema_of
from orchestrator.definition.catalog import _Found  # pyright: ignore[reportPrivateUsage]
from orchestrator.documents.pages import files_of
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.migrations.migrate import migrate


class Part(Contract):
    """A contract that contains a tuple of itself."""

    name: str
    parts: tuple[Part, ...] = ()
    whole: Part | None


class Give(Contract):
    """A contract that is mutually recursive with `Take`."""

    take: Take | None = None


class Take(Contract):
    """A contract that is mutually recursive with `Give`."""

    give: Loop | Give


class Loop(Contract):
    """A contract that requires another of itself, so that it has no finite value."""

    again: Loop


class Level1(Contract):
    """The first of five levels, each with two fields of the next level."""

    a: Level2
    b: Level2


class Level2(Contract):
    a: Level3
    b: Level3


class Level3(Contract):
    a: Level4
    b: Level4


class Level4(Contract):
    a: Level5
    b: Level5


class Level5(Contract):
    depth: int


class ShapeRequested(DomainEvent):
    """An event with all of these contracts."""

    part: Part
    take: Take
    level: Level1


class NestRequested(DomainEvent):
    """An event that contains itself."""

    size: int
    inside: NestRequested | None = None


class ShapeCompleted(DomainEvent):
    """The saga has completed."""


class ShapeFailed(FailureEvent):
    """The saga was undone."""


R = TypeVar("R", bound=DomainEvent)
C = TypeVar("C", bound=DomainEvent)
F = TypeVar("F", bound=FailureEvent)


class Base(Orchestrator[R, C, F], Generic[R, C, F]):
    """A generic base that several orchestrators share."""

    def ordering_key(self, event: R) -> str | None:
        """Return one key for all events."""
        return "all"


class Half(Base[R, ShapeCompleted, ShapeFailed], Generic[R]):
    """A generic base with its completed and failed events."""

    async def handle(self, event: R, saga: Saga) -> ShapeCompleted:
        """Complete at once."""
        return ShapeCompleted()


class Named(Orchestrator[ShapeRequested, ShapeCompleted, ShapeFailed], ABC):
    """An abstract class, although all of its events are named."""


class Shape(Half[ShapeRequested | NestRequested]):
    """An orchestrator of two events with a generic base."""


class Forgot(Base):  # type: ignore[type-arg]  # pyright: ignore[reportMissingTypeArgument, reportImplicitAbstractClass]
    """An orchestrator that names no events."""


CATALOG = Catalog.of(orchestrators=[Shape])


def test_the_fields_of_a_recursive_type_end_with_its_name() -> None:
    shown = {field.name: field.type for field in fields_of(ShapeRequested)}

    assert shown["part"] == "{name: string, parts: list of Part, whole: Part or null}"
    assert shown["take"] == "{give: {again: Loop} or {take: Take or null}}"
    assert shown["level"].count("Level5") == 16
    assert {field.name: field.type for field in fields_of(NestRequested)} == {
        "size": "integer",
        "inside": "{size: integer, inside: NestRequested or null} or null",
    }


def test_a_sample_of_a_recursive_type_is_finite() -> None:
    sample = sample_event(ShapeRequested)

    assert isinstance(sample, ShapeRequested)
    assert sample.part.whole is None
    assert sample.take.give == Give()
    assert isinstance(sample_event(NestRequested), NestRequested)


def test_every_document_can_be_generated_for_recursive_types() -> None:
    files = files_of(CATALOG, title="Shapes", version="1")

    assert '"parts"?: (ShapeRequested_Part)[];' in files["events.ts"]
    assert "size" in schema_of(NestRequested)["properties"]
    assert "Shape" in files["README.md"]


def test_an_orchestrator_inherits_its_events_through_generic_bases() -> None:
    assert Shape.requests == (ShapeRequested, NestRequested)
    assert (Shape.completed, Shape.failed) == (ShapeCompleted, ShapeFailed)
    assert [listener.__name__ for listener in CATALOG.listeners(NestRequested)] == ["Shape"]


def test_a_generic_base_is_not_an_orchestrator() -> None:
    found = _Found([], [], [])
    module = ModuleType(__name__)
    vars(module).update({class_.__name__: class_ for class_ in (Base, Half, Named, Shape, Forgot)})

    found.add_definitions(module)

    assert found.orchestrators == [Shape, Forgot]


def test_a_subclass_that_omits_its_events_is_reported_with_its_base() -> None:
    with pytest.raises(DefinitionError) as raised:
        Catalog.of(orchestrators=[Forgot])  # type: ignore[type-abstract]

    assert "`class Forgot(Base[ForgotRequested, ForgotCompleted, ForgotFailed])`" in str(raised.value)


@pytest.mark.parametrize("name", ["50%(here)s off", "it's", 'a "b"', "#1", "größe", "a&b=c", "a+b"])
def test_a_project_folder_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = tmp_path / name
    (folder / "migrations" / "versions").mkdir(parents=True)
    (folder / "migrations" / "env.py").write_text("")
    monkeypatch.chdir(folder)
    database = Database(Settings(state_dir=folder / "state").resolved_database_url)

    async def migrated_tables() -> list[str]:
        await database.check()
        await migrate(database, migrations=folder / "migrations")
        async with database.reading() as connection:
            tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        await database.close()
        return tables

    assert "saga" in asyncio.run(migrated_tables())
    assert (folder / "state" / "application.db").is_file()
