"""`orchestrator publish`: checks an event, publishes it and, on request, follows its sagas."""

import asyncio
import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from orchestrator.cli.events.events import example_of
from orchestrator.cli.events.fields import fields_of
from orchestrator.cli.events.watch import PrintProgress, SagaWatch, watch
from orchestrator.cli.terminal.exit_codes import Exit, Stopped, describe_failure, worst_of
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.options import LONGEST, AsJson, finite, read_stdin
from orchestrator.cli.terminal.output import Output, is_terminal, json_text
from orchestrator.client import EventBus, SagaHandle, ui_link
from orchestrator.client.outcomes.progress import Progress
from orchestrator.client.publishing.event_checks import envelope_of, event_class_of, read_event
from orchestrator.definition.catalog import Catalog
from orchestrator.errors import EventRejected, PublishIncomplete
from orchestrator.event import DomainEvent
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.messages.envelope import EVENT_SIZE_LIMIT
from orchestrator.protocol.messages.event_ids import new_event_id
from orchestrator.settings import Settings

_SOURCE = "orchestrator/cli"


@dataclass(frozen=True, slots=True)
class _Request:
    """The command's arguments and options, checked."""

    event: DomainEvent
    event_id: str
    follow: bool
    timeout_seconds: float | None

    @property
    def waits(self) -> bool:
        """Whether the command waits for the outcome."""
        return self.follow or self.timeout_seconds is not None


def publish(
    event_type: Annotated[str, typer.Argument(metavar="TYPE", help="The event's type, e.g. MONEY_TRANSFER_REQUESTED.")],
    payload: Annotated[
        str | None,
        typer.Argument(metavar="[PAYLOAD]", help="The event's fields as a JSON object, or - to read them from stdin."),
    ] = None,
    event_id: Annotated[
        str | None,
        typer.Option(
            "--event-id",
            metavar="ID",
            help="The idempotency key: however often an event is published with the same id, it is handled once. "
            "Default: a new id.",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show each step when it ends, and wait for the outcome.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=0,
            max=LONGEST,
            callback=finite,
            help="Wait at most this long for the outcome. After that the exit code is 4, and the saga continues.",
        ),
    ] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Print an example payload for the event, and publish nothing.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Publish an event to every orchestrator that listens to it, and print where its sagas can be seen.

    The command returns when the event is accepted. From then on it ends in exactly one outcome, whatever crashes. With
    --follow or --timeout the command waits for that outcome; the exit code is then 0 completed, 1 failed or cancelled,
    4 not finished in time. If the event is invalid, the message names the field, and nothing is sent.

    \b
    Examples:
      orchestrator publish MONEY_TRANSFER_REQUESTED --example
      orchestrator publish MONEY_TRANSFER_REQUESTED '{"user_id": "olena", ...}' --follow
      orchestrator publish MONEY_TRANSFER_REQUESTED --example | orchestrator publish MONEY_TRANSFER_REQUESTED - -f
      orchestrator publish MONEY_TRANSFER_REQUESTED '{...}' --event-id order-17 --timeout 30 --json
    """
    output = Output(as_json)
    settings = Settings()
    catalog = Catalog.discover(settings.packages)
    event_class = event_class_of(catalog, event_type)
    if example:
        if payload is not None:
            raise typer.BadParameter("Give either a PAYLOAD or --example, not both")
        return _print_example(event_class, output)
    if payload is None:
        fields = ", ".join(field.name for field in fields_of(event_class) if field.is_required) or "none"
        raise EventRejected(
            "event.invalid",
            f"{event_type}: the payload is missing. It is a JSON object with these fields: {fields}. "
            f"To print an example: {command('publish', event_type, '--example')}",
        )
    event = read_event(catalog, event_type, _read_stdin() if payload == "-" else payload)
    request = _Request(event, new_event_id() if event_id is None else event_id, follow, timeout)
    envelope_of(
        catalog, event, event_id=request.event_id, source=_SOURCE
    )  # Report misuse before connecting to a server.
    return asyncio.run(_publish(request, settings, catalog, output))


async def _publish(request: _Request, settings: Settings, catalog: Catalog, output: Output) -> int:
    bus = await EventBus.connect(settings, catalog=catalog)
    bus.source = _SOURCE
    see_status = f"See its status: {command('status', request.event_id)}"
    try:
        handles = await bus.publish(request.event, event_id=request.event_id)
    except PublishIncomplete as fault:
        output.remark(f"The event's id is {request.event_id}. When you publish it again, add --event-id with that id.")
        raise fault from fault.__cause__
    except asyncio.CancelledError:
        raise Stopped(f"Stopped while publishing, so the event may have been accepted. {see_status}") from None
    output.state("accepted", f"{request.event.type_name()}, event id {request.event_id}")
    for handle in handles:
        output.line(f"  {handle.workflow_id}")
        output.line(f"  {_link(settings, bus, handle)}")
    repeats = [handle for handle in handles if handle.is_repeat]
    for handle in repeats:
        output.line(
            f"  A repeat: {handle.orchestrator.__name__} has already completed this event, so nothing was done."
        )
    waited = handles if request.waits else repeats
    print_progress = _progress_printer(output, len(handles)) if request.follow else None
    try:
        watches = await watch(
            bus.client,
            waited,
            timeout_seconds=request.timeout_seconds,
            print_progress=print_progress,
            remark=output.remark,
        )
    except asyncio.CancelledError:
        raise Stopped(f"Stopped watching; the saga continues. {see_status}") from None
    for saga_watch in watches:
        _print_end(saga_watch, output, several=len(handles) > 1)
    if not request.waits:
        output.line(see_status)
    elif any(saga_watch.exit is Exit.NOT_FINISHED for saga_watch in watches):
        output.remark(see_status)
    exit_code = worst_of([saga_watch.exit for saga_watch in watches])
    if output.as_json:
        output.document(_document(request, settings, bus, handles, watches))
    return exit_code


def _print_example(event_class: type[DomainEvent], output: Output) -> int:
    example = example_of(event_class)
    if example is None:
        fields = ", ".join(f"{field.name} ({field.type})" for field in fields_of(event_class)) or "none"
        raise EventRejected(
            "event.no_example", f"{event_class.type_name()} declares no example. Its fields are: {fields}"
        )
    if output.as_json:
        output.document(example)
    else:
        output.raw(json_text(example, indent=2 if is_terminal() else None))
    return Exit.COMPLETED


def _read_stdin() -> bytes:
    # This is enough to see that the event is too large and which field is the largest. The input may be endless.
    return read_stdin(16 * EVENT_SIZE_LIMIT)


def _progress_printer(output: Output, count: int) -> PrintProgress:
    def print_progress(saga_watch: SagaWatch, progress: Progress) -> None:
        orchestrator = f"{saga_watch.handle.orchestrator.__name__}  " if count > 1 else ""
        detail = f"  ({progress.detail})" if progress.detail else ""
        output.state(progress.state, f"{orchestrator}{progress.what}{detail}", indent=2)

    return print_progress


def _print_end(saga_watch: SagaWatch, output: Output, *, several: bool) -> None:
    orchestrator = f"{saga_watch.handle.orchestrator.__name__}  " if several else ""
    outcome = saga_watch.outcome
    if outcome is None:
        fault = saga_watch.fault
        assert fault is not None
        output.remark(f"{orchestrator}{fault.message if isinstance(fault, EventRejected) else fault}")
        return
    data: Any = outcome.event["data"]
    if outcome.phase is Phase.COMPLETED:
        shown = json.dumps(data, ensure_ascii=False)
        output.state(outcome.phase.value, f"{orchestrator}{outcome.event['type']} {shown}")
        return
    undone = ", ".join(str(step["operation"]) for step in data.get("undone", []))
    after = f"; undone: {undone}" if undone else "; there was nothing to undo"
    output.state(outcome.phase.value, f"{orchestrator}{outcome.error_code}: {outcome.message}{after}")


def _link(settings: Settings, bus: EventBus, handle: SagaHandle[Any]) -> str:
    return ui_link(settings, bus.client.namespace, handle.workflow_id, handle.run_id)


def _document(
    request: _Request, settings: Settings, bus: EventBus, handles: list[SagaHandle[Any]], watches: list[SagaWatch]
) -> dict[str, Any]:
    known = {saga_watch.handle.workflow_id: saga_watch for saga_watch in watches}
    document: dict[str, Any] = {
        "event_id": request.event_id,
        "event_type": request.event.type_name(),
        "sagas": [
            {
                "orchestrator": handle.orchestrator.__name__,
                "workflow_id": handle.workflow_id,
                "run_id": handle.run_id,
                "link": _link(settings, bus, handle),
                "is_repeat": handle.is_repeat,
                **_end_document(known.get(handle.workflow_id)),
            }
            for handle in handles
        ],
    }
    faults = sorted((each for each in watches if each.fault), key=lambda each: each.exit is not Exit.MISUSE)
    if faults and faults[0].fault and (failure := describe_failure(faults[0].fault)):
        document["error"] = failure.as_json()
    return document


def _end_document(saga_watch: SagaWatch | None) -> dict[str, Any]:
    if saga_watch is None:
        return {}
    outcome = saga_watch.outcome
    return {
        "phase": outcome.phase.value if outcome else None,
        "error_code": outcome.error_code if outcome else None,
        "message": outcome.message if outcome else None,
        "outcome": outcome.event if outcome else None,
        "progress": [
            {"what": progress.what, "state": progress.state, "detail": progress.detail or None}
            for progress in saga_watch.progress
        ],
    }
