"""`orchestrator publish`: an event from the command line, checked before anything is sent, and followed if wanted."""

import asyncio
import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from orchestrator.cli.events.events import example_of
from orchestrator.cli.events.fields import fields_of
from orchestrator.cli.events.watch import Watched, watch
from orchestrator.cli.terminal.exit_codes import Exit, Stopped, told, worst_of
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.options import LONGEST, finite, read_stdin
from orchestrator.cli.terminal.output import Output, is_terminal, json_text
from orchestrator.client import EventBus, SagaHandle, ui_link
from orchestrator.client.outcomes.progress import Progress
from orchestrator.client.validation import envelope_of, event_class_of, read_event
from orchestrator.definition.catalog import Catalog
from orchestrator.errors import EventRejected, PublishIncomplete
from orchestrator.event import DomainEvent
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.envelope import EVENT_SIZE_LIMIT
from orchestrator.protocol.event_ids import new_event_id
from orchestrator.settings import Settings

_SOURCE = "orchestrator/cli"


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the command line asks for."""

    event: DomainEvent
    event_id: str
    follow: bool
    timeout_seconds: float | None

    @property
    def waits(self) -> bool:
        return self.follow or self.timeout_seconds is not None


def publish(
    event_type: Annotated[str, typer.Argument(metavar="TYPE", help="For example MONEY_TRANSFER_REQUESTED.")],
    payload: Annotated[
        str | None,
        typer.Argument(metavar="[PAYLOAD]", help="The event's fields as one JSON object, or - to read it from stdin."),
    ] = None,
    event_id: Annotated[
        str | None,
        typer.Option(
            "--event-id",
            metavar="ID",
            help="The idempotency key: one event is done once under it, however often published. Made up if not given.",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show each step as it ends, and wait for the outcome.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=0,
            max=LONGEST,
            callback=finite,
            help="Wait for the outcome, so long at most; then exit code 4. The saga goes on.",
        ),
    ] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Print a payload that can be published, and send nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")] = False,
) -> int:
    """Publish an event to every orchestrator that listens, and say where its sagas can be seen.

    Returns once the event is accepted: from then on it ends in exactly one outcome, whatever crashes. With --follow or
    --timeout it waits for that outcome; the exit code is then 0 completed, 1 failed or cancelled, 4 not finished in
    time. Whatever is wrong with the event is told with the field's name, and nothing is sent.

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
            raise typer.BadParameter("give a PAYLOAD or --example, not both")
        return _print_example(event_class, output)
    if payload is None:
        fields = ", ".join(field.name for field in fields_of(event_class) if field.is_required) or "none"
        raise EventRejected(
            "event.invalid",
            f"{event_type}: the payload is missing; it is a JSON object with these fields: {fields}. "
            f"One to begin with: {command('publish', event_type, '--example')}",
        )
    event = read_event(catalog, event_type, _read_stdin() if payload == "-" else payload)
    wish = _Wish(event, new_event_id() if event_id is None else event_id, follow, timeout)
    envelope_of(catalog, event, event_id=wish.event_id, source=_SOURCE)  # misuse is told without asking any server
    return asyncio.run(_publish(wish, settings, catalog, output))


async def _publish(wish: _Wish, settings: Settings, catalog: Catalog, output: Output) -> int:
    bus = await EventBus.connect(settings, catalog=catalog)
    bus.source = _SOURCE
    try:
        handles = await bus.publish(wish.event, event_id=wish.event_id)
    except PublishIncomplete as fault:
        output.remark(f"The event's id is {wish.event_id}: give it as --event-id when you publish again.")
        raise fault from fault.__cause__
    except asyncio.CancelledError:
        raise Stopped(
            f"Stopped while publishing: it may have been accepted. See: {command('status', wish.event_id)}"
        ) from None
    output.state("accepted", f"{wish.event.type_name()}, event id {wish.event_id}")
    for handle in handles:
        output.say(f"  {handle.workflow_id}")
        output.say(f"  {_link(settings, bus, handle)}")
    repeats = [handle for handle in handles if handle.is_repeat]
    for handle in repeats:
        output.say(f"  A repeat: {handle.orchestrator.__name__} completed this event before; nothing was done again.")
    waited = handles if wish.waits else repeats
    tell = _teller(output, len(handles)) if wish.follow else None
    try:
        watched = await watch(bus.client, waited, timeout_seconds=wish.timeout_seconds, tell=tell, remark=output.remark)
    except asyncio.CancelledError:
        raise Stopped(f"Stopped watching; the saga goes on. See: {command('status', wish.event_id)}") from None
    for each in watched:
        _tell_end(each, output, several=len(handles) > 1)
    if not wish.waits:
        output.say(f"See what becomes of it: {command('status', wish.event_id)}")
    elif any(each.exit is Exit.NOT_FINISHED for each in watched):
        output.remark(f"Ask again: {command('status', wish.event_id)}")
    exit_code = worst_of([each.exit for each in watched])
    if output.as_json:
        output.document(_document(wish, settings, bus, handles, watched))
    return exit_code


def _print_example(event_class: type[DomainEvent], output: Output) -> int:
    example = example_of(event_class)
    if example is None:
        fields = ", ".join(f"{field.name} ({field.type})" for field in fields_of(event_class)) or "none"
        raise EventRejected("event.no_example", f"{event_class.type_name()} has no example; its fields are {fields}")
    if output.as_json:
        output.document(example)
    else:
        output.raw(json_text(example, indent=2 if is_terminal() else None))
    return Exit.COMPLETED


def _read_stdin() -> bytes:
    # More than enough to refuse it by name, and endless input ends.
    return read_stdin(16 * EVENT_SIZE_LIMIT)


def _teller(output: Output, count: int) -> Any:
    def tell(watched: Watched, progress: Progress) -> None:
        who = f"{watched.handle.orchestrator.__name__}  " if count > 1 else ""
        why = f"  ({progress.detail})" if progress.detail else ""
        output.state(progress.state, f"{who}{progress.what}{why}", indent=2)

    return tell


def _tell_end(watched: Watched, output: Output, *, several: bool) -> None:
    who = f"{watched.handle.orchestrator.__name__}  " if several else ""
    if watched.outcome is None:
        assert watched.fault is not None
        output.remark(f"{who}{watched.fault.message if isinstance(watched.fault, EventRejected) else watched.fault}")
        return
    outcome = watched.outcome
    data: Any = outcome.event["data"]
    if outcome.phase is Phase.COMPLETED:
        shown = json.dumps(data, ensure_ascii=False)
        output.state(outcome.phase.value, f"{who}{outcome.event['type']} {shown}")
        return
    undone = ", ".join(str(step["operation"]) for step in data.get("undone", []))
    after = f"; undone: {undone}" if undone else "; nothing was there to undo"
    output.state(outcome.phase.value, f"{who}{outcome.error_code}: {outcome.message}{after}")


def _link(settings: Settings, bus: EventBus, handle: SagaHandle[Any]) -> str:
    return ui_link(settings, bus.client.namespace, handle.workflow_id, handle.run_id)


def _document(
    wish: _Wish, settings: Settings, bus: EventBus, handles: list[SagaHandle[Any]], watched: list[Watched]
) -> dict[str, Any]:
    known = {each.handle.workflow_id: each for each in watched}
    document: dict[str, Any] = {
        "event_id": wish.event_id,
        "event_type": wish.event.type_name(),
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
    faults = sorted((each for each in watched if each.fault), key=lambda one: one.exit is not Exit.MISUSE)
    if faults and faults[0].fault and (expected := told(faults[0].fault)):
        document["error"] = expected.as_json()
    return document


def _end_document(watched: Watched | None) -> dict[str, Any]:
    if watched is None:
        return {}
    outcome = watched.outcome
    return {
        "phase": outcome.phase.value if outcome else None,
        "error_code": outcome.error_code if outcome else None,
        "message": outcome.message if outcome else None,
        "outcome": outcome.event if outcome else None,
        "progress": [
            {"what": progress.what, "state": progress.state, "detail": progress.detail or None}
            for progress in watched.progress
        ],
    }
