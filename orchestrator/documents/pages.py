"""The files that describe a catalog: an overview page, an AsyncAPI document, TypeScript types and JSON schemas."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.contracts.schemas import schema_of
from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.documents.asyncapi import asyncapi, summary
from orchestrator.documents.diagram import diagram_of
from orchestrator.documents.refusals import refusals_of
from orchestrator.documents.tables import tables_of
from orchestrator.documents.typescript import typescript
from orchestrator.documents.walk import is_pivot, walks
from orchestrator.event import DomainEvent
from orchestrator.operation import Operation


def files_of(catalog: Catalog, *, title: str, version: str) -> dict[str, str]:
    """Return the text of each file, by its path in the catalog's folder."""
    document = asyncapi(catalog, title=title, version=version)
    files = {"README.md": page(catalog, title), "asyncapi.json": _json(document), "events.ts": typescript(catalog)}
    for name, event in catalog.events.items():
        files[f"schemas/{name}.v{event.version}.json"] = _json(schema_of(event))
    return files


def page(catalog: Catalog, title: str) -> str:
    """Return the overview: which event starts which orchestrator, what that runs, and how it ends."""
    return "\n".join(_page(catalog, title)) + "\n"


def stale(files: dict[str, str], folder: Path) -> list[str]:
    """Return the paths in a folder that are missing, differ from what the code says, or should not exist."""
    outdated = [path for path, text in files.items() if _read(folder / path) != text]
    existing = {str(file.relative_to(folder)) for file in folder.glob("**/*") if file.is_file()}
    return sorted({*outdated, *(existing - set(files))})


def write(files: dict[str, str], folder: Path) -> None:
    """Write the files into a folder and delete all other files there."""
    for path in stale(files, folder):
        (folder / path).unlink(missing_ok=True)
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")


def _page(catalog: Catalog, title: str) -> Iterator[str]:
    yield from (f"# {title}: events and what they start", "")
    yield "Generated from the code by `orchestrator catalog --write`. The same for programs: [AsyncAPI](asyncapi.json),"
    yield from ("[TypeScript](events.ts), JSON schemas in `schemas/`.", "")
    yield "| event | orchestrator | operations | tables | ends with |"
    yield "|---|---|---|---|---|"
    for name, event in catalog.events.items():
        for orchestrator in catalog.listeners(event):
            yield f"| {name} v{event.version}{' | '.join(['', *_cells(catalog, orchestrator, event)])} |"
    yield from ("", "## Events", "", "| event | version | what | made by |", "|---|---|---|---|")
    for name, event in catalog.events.items():
        makers = [
            orchestrator.__name__
            for orchestrator in catalog.orchestrators.values()
            if event in (orchestrator.completed, orchestrator.failed)
        ]
        schema = f"[{name}](schemas/{name}.v{event.version}.json)"
        yield f"| {schema} | {event.version} | {summary(event)} | {', '.join(makers) or 'clients'} |"
    for name, orchestrator in catalog.orchestrators.items():
        yield from ("", f"## {name}", "", summary(orchestrator), "")
        if codes := refusals_of(orchestrator, _used(catalog, orchestrator, *orchestrator.requests)):
            yield from (f"Can be refused with {', '.join(f'`{code}`' for code in codes)}.", "")
        yield from ("```mermaid", *diagram_of(catalog, orchestrator).splitlines(), "```")


def _cells(catalog: Catalog, orchestrator: AnyOrchestrator, event: type[DomainEvent]) -> list[str]:
    used = _used(catalog, orchestrator, event)
    tables = sorted({table for operation in used for table in tables_of(operation)})
    return [
        orchestrator.__name__,
        ", ".join(operation.name for operation in used) or "none",
        ", ".join(tables) or "none",
        f"{orchestrator.completed.type_name()} or {orchestrator.failed.type_name()}",
    ]


def _used(catalog: Catalog, orchestrator: AnyOrchestrator, *events: type[DomainEvent]) -> list[Operation[..., Any]]:
    """The operations of every walk of `handle` over these events, starting with those of the longest walk."""
    found = [walk for event in events for walk in walks(catalog, orchestrator, event)]
    ordered = sorted(found, key=lambda walk: -len(walk.steps))
    operations = (operation for walk in ordered for step in walk.steps for operation in step)
    return list(dict.fromkeys(operation for operation in operations if not is_pivot(operation)))


def _json(value: object) -> str:
    return f"{json.dumps(value, indent=1, ensure_ascii=False)}\n"


def _read(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None
