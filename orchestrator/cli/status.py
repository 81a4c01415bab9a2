"""`orchestrator status`: where an event's sagas stand, and why one is not done.

The database decides what is true; Temporal is asked only about sagas that are not done, and only for the reason.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError

from orchestrator.catalog import Catalog
from orchestrator.cli.faults import Exit, worst_of
from orchestrator.cli.invocation import command
from orchestrator.cli.output import Output, ago, moment_json
from orchestrator.cli.why import Kind, Reason, reason_of
from orchestrator.client import connect_temporal, ui_link
from orchestrator.drive.messages import Phase, StepState
from orchestrator.envelope import valid_event_id
from orchestrator.errors import DefinitionError, SagaUnknown, Unreachable
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.reading import NoTables, SagaView, StepView, namespace_of, sagas_of_event
from orchestrator.workflow.names import own_workflow_id

_PATIENCE = 5.0
"""Seconds that Temporal may take to answer; the database's answer is worth showing without it."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one orchestrator stands with an event."""

    orchestrator: str
    event_id: str
    link: str
    saga: SagaView | None
    """Its row; None if nothing was written yet."""
    reason: Reason | None
    """Why it is not done, as far as Temporal knows."""

    @property
    def workflow_id(self) -> str:
        """Of its own execution."""
        return own_workflow_id(self.orchestrator, self.event_id)

    @property
    def phase(self) -> str:
        """In a word."""
        if self.saga is None:
            return "rejected" if self._was_rejected else "accepted"
        return "stuck" if self.saga.is_stuck else self.saga.phase.value

    @property
    def exit(self) -> Exit:
        """What it comes to."""
        if self.saga is None:
            return Exit.FAILED if self._was_rejected else Exit.NOT_FINISHED
        if not self.saga.phase.is_final:
            return Exit.NOT_FINISHED
        return Exit.COMPLETED if self.saga.phase is Phase.COMPLETED else Exit.FAILED

    @property
    def why(self) -> str | None:
        """Why it is not done, in one sentence; None if it is."""
        if self.saga is not None and self.saga.phase.is_final:
            return None
        said: list[str] = []
        if self.saga is not None and self.saga.is_stuck:
            since = f" for {ago(self.saga.stuck_since)}" if self.saga.stuck_since else ""
            said.append(f"stuck at step {self.saga.stuck_step}{since}: {self.saga.stuck_error}")
        elif self.saga is None and not self._was_rejected:
            said.append("nothing is in the database yet")
        if self.reason is not None and not (said and self.reason.kind is Kind.WAITING):
            said.append(self._because(self.reason))
        return "; ".join(said) or None

    @property
    def _was_rejected(self) -> bool:
        return self.reason is not None and self.reason.status is WorkflowExecutionStatus.FAILED

    def _because(self, reason: Reason) -> str:
        match reason.kind:
            case Kind.CLOSED if self.saga is None and self._was_rejected:
                return (
                    "what its execution was given was no event that it could take, and is kept as a dead letter; the "
                    "reason stands in the Web UI"
                )
            case Kind.CLOSED if self.saga is None and reason.status is WorkflowExecutionStatus.COMPLETED:
                return (
                    "but its execution has completed: is this the workers' database? Set ORCHESTRATOR_DATABASE_URL "
                    "to theirs"
                )
            case Kind.CLOSED | Kind.GONE:
                return (
                    f"{reason.sentence} before the saga did. Publish the event again with the same id, and the saga "
                    "goes on where it stands"
                )
            case _:
                return reason.sentence


@dataclass(frozen=True, slots=True)
class _Found:
    standings: Sequence[Standing]
    remarks: Sequence[str]


def status(
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="As `publish` printed it.")],
    arguments: Annotated[
        bool, typer.Option("--arguments", help="Show what each step was given and gave back; it may be personal.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")] = False,
) -> int:
    """Show where an event's sagas stand, step by step, and why one is not done.

    The exit code is 0 completed, 1 failed or cancelled, 4 not finished, 2 no such event, 3 database unreachable.

    \b
    Examples:
      orchestrator status 5f0c7d62-5d0e-4a38-9d0b-6f6d8f8f4f6e
      orchestrator status order-17 --arguments
      orchestrator status order-17 --json
    """
    output = Output(as_json)
    settings = Settings()
    found = asyncio.run(_find(settings, event_id))
    if as_json:
        document = {
            "event_id": event_id,
            "sagas": [_document(one, arguments) for one in found.standings],
            "remarks": list(found.remarks),
        }
        output.document(document)
    else:
        for number, standing in enumerate(found.standings):
            if number:
                output.say()
            _show(standing, output, arguments=arguments)
    for remark in found.remarks:
        output.remark(remark)
    return worst_of([one.exit for one in found.standings])


async def _find(settings: Settings, event_id: str) -> _Found:
    database = Database(settings.resolved_database_url)
    sagas: Sequence[SagaView] = ()
    namespace, no_tables = None, None
    try:
        sagas = await sagas_of_event(database, event_id)
        namespace = await namespace_of(database)
    except NoTables as fault:
        no_tables = fault  # an event may be accepted before the first worker comes
    finally:
        await database.close()
    remarks: list[str] = []
    rows = {one.orchestrator: one for one in sagas}
    listeners = _listeners(settings, sagas, remarks)
    names = sorted({*rows, *listeners})
    reasons: dict[str, Reason] = {}
    open_names = [name for name in names if name not in rows or not rows[name].phase.is_final]
    if open_names and valid_event_id(event_id):
        try:
            async with asyncio.timeout(_PATIENCE):
                reasons = await _ask_temporal(settings, event_id, open_names)
        except (Unreachable, RPCError, TimeoutError) as fault:
            why = str(fault) or f"no answer within {_PATIENCE:g} s"
            if not sagas:
                known = no_tables or f"The database knows no event {event_id}."
                raise _instead(no_tables, f"{known} Temporal could not be asked either: {why}") from fault
            if any(not one.phase.is_final for one in sagas):
                remarks.append(f"Temporal could not be asked why it is not done: {why}")
    standings = [
        Standing(
            name,
            event_id,
            ui_link(settings, namespace or "default", own_workflow_id(name, event_id)),
            rows.get(name),
            reasons.get(name) or (_gone(rows[name]) if name in rows and not remarks else None),
        )
        for name in names
        if name in rows or name in reasons
    ]
    if not standings and no_tables is not None:
        raise no_tables
    if not standings:
        raise SagaUnknown(
            f"No saga and no execution of an event {event_id} is known here. See which there are: {command('list')}"
        )
    return _Found(standings, remarks)


def _instead(no_tables: NoTables | None, message: str) -> Unreachable:
    return Unreachable(message) if no_tables is None else NoTables(message)


def _gone(saga: SagaView) -> Reason | None:
    return None if saga.phase.is_final else Reason(Kind.GONE, "its execution is gone")


def _listeners(settings: Settings, sagas: Sequence[SagaView], remarks: list[str]) -> list[str]:
    """Who may have this event: its listeners, or everybody while its type is not known."""
    try:
        catalog = Catalog.discover(settings.packages)
    except DefinitionError as fault:
        if not sagas:
            raise
        # An operator asks about sagas also where the code is broken just now.
        remarks.append(f"The application's code could not be read, so only what the database has is shown: {fault}")
        return []
    if not sagas:
        return list(catalog.orchestrators)
    event = catalog.events.get(sagas[0].event_type)
    return [] if event is None else [one.__name__ for one in catalog.listeners(event)]


async def _ask_temporal(settings: Settings, event_id: str, orchestrators: Sequence[str]) -> dict[str, Reason]:
    client = await connect_temporal(settings)
    asked = await asyncio.gather(*(reason_of(client, own_workflow_id(name, event_id)) for name in orchestrators))
    return {name: reason for name, reason in zip(orchestrators, asked, strict=True) if reason is not None}


def _show(standing: Standing, output: Output, *, arguments: bool) -> None:
    saga = standing.saga
    output.state(standing.phase, f"{standing.orchestrator}  {_when(saga)}".rstrip())
    output.say(f"  {standing.workflow_id}")
    output.say(f"  {standing.link}")
    if saga is not None and saga.error_code:
        word = "because" if saga.phase.is_final else f"undoing it, as {(saga.ends_as or Phase.FAILED).value}, because"
        output.say(f"  {word} {saga.error_code}: {saga.message}")
    if standing.why:
        output.say(f"  not done: {standing.why}", style="yellow")
    steps = () if saga is None else saga.steps
    for step in steps:
        output.state(step.state.value, f"step {step.number}: {step.operation}{_beside(step)}", indent=2)
        if arguments:
            output.say(f"              given {step.arguments}")
            if step.result is not None:
                output.say(f"              gave  {step.result}")
    if arguments and saga is not None and saga.outcome is not None:
        output.say(f"  outcome {json.dumps(_event_of(saga), ensure_ascii=False)}")


def _when(saga: SagaView | None) -> str:
    if saga is None:
        return ""
    if saga.finished_at is not None:
        return f"{saga.event_type}, {ago(saga.finished_at)} ago"
    return f"{saga.event_type}, began {ago(saga.created_at)} ago"


def _beside(step: StepView) -> str:
    said: list[str] = []
    if step.error is not None:
        code, message = _refusal(step)
        said.append(f"{code}: {message}")
    if step.undo_error is not None and step.state is not StepState.UNDONE:
        said.append(f"undoing failed {_times(step.undo_attempts)}, last with {step.undo_error}")
    if step.skipped_by is not None:
        said.append(f"skipped by {step.skipped_by}: {step.skip_reason}")
    return f"  ({'; '.join(said)})" if said else ""


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _refusal(step: StepView) -> tuple[str, str]:
    said: dict[str, str] = json.loads(step.error or "{}")
    return said.get("code", ""), said.get("message", "")


def _event_of(saga: SagaView) -> Any:
    return None if saga.outcome is None else json.loads(saga.outcome)["event"]


def _document(standing: Standing, arguments: bool) -> dict[str, Any]:
    saga = standing.saga
    document: dict[str, Any] = {
        "orchestrator": standing.orchestrator,
        "workflow_id": standing.workflow_id,
        "link": standing.link,
        "phase": None if saga is None else saga.phase.value,
        "is_stuck": saga is not None and saga.is_stuck,
        "why_not_done": standing.why,
        "hold_up": standing.reason.kind.value if standing.reason and standing.why else None,
    }
    if saga is None:
        return document | {"steps": []}
    document |= {
        "event_type": saga.event_type,
        "ends_as": saga.ends_as.value if saga.ends_as else None,
        "error_code": saga.error_code,
        "message": saga.message,
        "stuck_step": saga.stuck_step,
        "stuck_error": saga.stuck_error,
        "created_at": moment_json(saga.created_at),
        "finished_at": moment_json(saga.finished_at),
        "steps": [_step_document(step, arguments) for step in saga.steps],
    }
    return document | ({"outcome": _event_of(saga)} if arguments else {})


def _step_document(step: StepView, arguments: bool) -> dict[str, Any]:
    code, message = _refusal(step)
    document: dict[str, Any] = {
        "number": step.number,
        "operation": step.operation,
        "kind": step.kind,
        "state": step.state.value,
        "attempts": step.attempts,
        "error_code": code or None,
        "message": message or None,
        "undo_attempts": step.undo_attempts,
        "undo_error": step.undo_error,
        "skipped_by": step.skipped_by,
        "skip_reason": step.skip_reason,
    }
    if arguments:
        document["arguments"] = json.loads(step.arguments)
        document["result"] = None if step.result is None else json.loads(step.result)
    return document
