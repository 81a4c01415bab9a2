"""`orchestrator events`: shows the declared events, their listeners and their fields, without any server."""

import json
from typing import Annotated, Any

import typer

from orchestrator.cli.events.fields import fields_of
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.output import Output
from orchestrator.client.publishing.event_checks import event_class_of
from orchestrator.contracts.schemas import schema_of
from orchestrator.definition.catalog import Catalog
from orchestrator.event import DomainEvent
from orchestrator.settings import Settings


def events(
    event_type: Annotated[
        str | None, typer.Argument(metavar="[TYPE]", help="Show only this event, with an example to publish.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a single JSON document, with each event's JSON schema.")
    ] = False,
) -> int:
    """Show the events with their listeners and fields, beginning with those that start sagas.

    \b
    Examples:
      orchestrator events
      orchestrator events MONEY_TRANSFER_REQUESTED
      orchestrator events --json
    """
    output = Output(as_json)
    catalog = Catalog.discover(Settings().packages)
    if event_type is None:
        starting = [event for event in catalog.events.values() if catalog.listeners(event)]
        others = [event for event in catalog.events.values() if not catalog.listeners(event)]
        shown = [*starting, *others]
    else:
        shown = [event_class_of(catalog, event_type)]
    if as_json:
        documents = [_document(event, catalog) for event in shown]
        output.document({"events": documents} if event_type is None else documents[0])
        return 0
    if not shown:
        output.line("No event is declared here. Declare one as a class in events/.")
    for number, event in enumerate(shown):
        if number:
            output.line()
        _print_event(event, catalog, output)
    if event_type is not None:
        _print_example(shown[0], catalog, output)
    elif shown:
        output.line()
        output.line(f"To show one with an example: {command('events', shown[0].type_name())}")
    return 0


def example_of(event: type[DomainEvent]) -> dict[str, Any] | None:
    """Return the fields of the event's example, or None if its author declared no example."""
    example = event.example()
    return None if example is None else example.model_dump(mode="json")


def _print_event(event: type[DomainEvent], catalog: Catalog, output: Output) -> None:
    output.line(f"{event.type_name()}  (version {event.version})", style="bold")
    output.line(f"  {_first_line(event)}")
    output.line(f"  {_role(event, catalog)}")
    rows = [
        (
            f"  {field.name}",
            "required" if field.is_required else f"default {field.default}",
            field.type,
            field.description,
        )
        for field in fields_of(event)
    ]
    if rows:
        output.table(("  field", "", "type", ""), rows)


def _print_example(event: type[DomainEvent], catalog: Catalog, output: Output) -> None:
    example = example_of(event)
    if example is None or not catalog.listeners(event):
        return
    output.line()
    output.line("To publish one:")
    output.line(f"  {command('publish', event.type_name(), json.dumps(example, ensure_ascii=False), '--follow')}")


def _document(event: type[DomainEvent], catalog: Catalog) -> dict[str, Any]:
    return {
        "type": event.type_name(),
        "version": event.version,
        "description": _first_line(event),
        "listeners": [listener.__name__ for listener in catalog.listeners(event)],
        "produced_by": _producers(event, catalog),
        "fields": [
            {
                "name": field.name,
                "type": field.type,
                "required": field.is_required,
                "default": None if field.default is None else json.loads(field.default),
                "description": field.description,
            }
            for field in fields_of(event)
        ],
        "schema": schema_of(event),
        "example": example_of(event),
    }


def _role(event: type[DomainEvent], catalog: Catalog) -> str:
    if listeners := catalog.listeners(event):
        return f"starts {', '.join(listener.__name__ for listener in listeners)}"
    if producers := _producers(event, catalog):
        return f"ends {', '.join(producers)}; starts nothing"
    return "starts nothing"


def _producers(event: type[DomainEvent], catalog: Catalog) -> list[str]:
    return [
        name
        for name, orchestrator in catalog.orchestrators.items()
        if event in (orchestrator.completed, orchestrator.failed)
    ]


def _first_line(event: type[DomainEvent]) -> str:
    return (event.__doc__ or "").strip().partition("\n")[0]
