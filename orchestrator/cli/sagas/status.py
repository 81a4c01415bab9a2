"""`orchestrator status`: shows an event's sagas, why one is not done, and which commands help if one is stuck."""

import asyncio
import json
from typing import Annotated, Any

import typer

from orchestrator.cli.diagnosis.event import describe_dead_letter, diagnose
from orchestrator.cli.diagnosis.saga import SagaDiagnosis
from orchestrator.cli.terminal.exit_codes import Exit, worst_of
from orchestrator.cli.terminal.options import AsJson, EventId
from orchestrator.cli.terminal.output import Output, age_text, moment_json
from orchestrator.protocol.commands import Blocker, Phase, StepState
from orchestrator.settings import Settings
from orchestrator.store.queries.sagas import SagaView, StepView


def status(
    event_id: EventId,
    arguments: Annotated[
        bool,
        typer.Option(
            "--arguments",
            help="Also show each step's arguments, result and refusal details, which may contain personal data.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Show an event's sagas, step by step, and why one is not done; or the dead letter that contains the event.

    The exit code is 0 completed, 1 failed or cancelled, 4 not finished, 2 no such event, 3 database unreachable.

    \b
    Examples:
      orchestrator status 5f0c7d62-5d0e-4a38-9d0b-6f6d8f8f4f6e
      orchestrator status order-17 --arguments
      orchestrator status order-17 --json
    """
    output = Output(as_json)
    event = asyncio.run(diagnose(Settings(), event_id))
    if as_json:
        document = {
            "event_id": event_id,
            "sagas": [saga_document(diagnosis, arguments=arguments) for diagnosis in event.sagas],
            "dead_letters": [
                {"number": letter.id, "code": letter.code, "reason": letter.reason, "settled_as": letter.settled_as}
                for letter in event.dead_letters
            ],
            "remarks": list(event.remarks),
        }
        output.document(document)
    else:
        for number, diagnosis in enumerate(event.sagas):
            if number:
                output.line()
            _print_saga(diagnosis, output, arguments=arguments)
        for letter in event.dead_letters:
            output.state("rejected" if letter.is_open else "settled", describe_dead_letter(letter))
    for remark in event.remarks:
        output.remark(remark)
    rejected = [Exit.FAILED] if event.dead_letters and not event.sagas else []
    return worst_of([*(diagnosis.exit for diagnosis in event.sagas), *rejected])


def _print_saga(diagnosis: SagaDiagnosis, output: Output, *, arguments: bool) -> None:
    saga = diagnosis.saga
    output.state(diagnosis.phase, f"{diagnosis.orchestrator}  {_type_and_age(saga)}".rstrip())
    output.line(f"  {diagnosis.workflow_id}")
    output.line(f"  {diagnosis.link}")
    if saga is not None and saga.error_code:
        ends_as = (saga.ends_as or Phase.FAILED).value
        word = "because" if saga.phase.is_final else f"being undone, to end as {ends_as}, because"
        output.line(f"  {word} {saga.error_code}: {saga.message}{_ended_by(saga)}")
    if diagnosis.why:
        output.line(f"  not done: {diagnosis.why}", style="yellow")
        print_next_commands(diagnosis, output)
    if diagnosis.pending_cancel:
        output.line(f"  {diagnosis.pending_cancel}", style="yellow")
    if saga is not None and saga.purged_at is not None:
        output.line(f"  purged on {saga.purged_at:%Y-%m-%d}: its steps and its event's fields have been deleted")
    steps = () if saga is None else saga.steps
    for step in steps:
        output.state(step.state.value, f"step {step.number}: {step.shown}{_step_details(step)}", indent=2)
        if arguments:
            output.line(f"              arguments {step.arguments}")
            if step.result is not None:
                output.line(f"              result    {step.result}")
            if (details := _refusal_details(step)) is not None:
                output.line(f"              details   {json.dumps(details, ensure_ascii=False)}")
    if arguments and saga is not None and saga.outcome is not None:
        output.line(f"  outcome {json.dumps(_outcome_event(saga), ensure_ascii=False)}")


def _ended_by(saga: SagaView) -> str:
    is_in_message = saga.ended_by is None or saga.ended_by in (saga.message or "")
    return "" if is_in_message else f" (by {saga.ended_by})"


def _type_and_age(saga: SagaView | None) -> str:
    if saga is None:
        return ""
    if saga.finished_at is not None:
        return f"{saga.event_type}, {age_text(saga.finished_at)} ago"
    return f"{saga.event_type}, began {age_text(saga.created_at)} ago"


def _step_details(step: StepView) -> str:
    details: list[str] = []
    if step.error is not None:
        code, message = _refusal(step)
        details.append(f"{code}: {message}")
    if step.undo_error is not None and step.state is not StepState.UNDONE:
        times = "once" if step.undo_attempts == 1 else f"{step.undo_attempts} times"
        details.append(f"undoing failed {times}, last with {step.undo_error}")
    if step.skipped_by is not None:
        details.append(f"skipped by {step.skipped_by}: {step.skip_reason}")
    return f"  ({'; '.join(details)})" if details else ""


def _refusal(step: StepView) -> tuple[str, str]:
    error: dict[str, str] = json.loads(step.error or "{}")
    return error.get("code", ""), error.get("message", "")


def _refusal_details(step: StepView) -> Any:
    return json.loads(step.error or "{}").get("details")


def _outcome_event(saga: SagaView) -> Any:
    return None if saga.outcome is None else json.loads(saga.outcome)["event"]


def print_next_commands(diagnosis: SagaDiagnosis, output: Output) -> None:
    """Print the commands that an operator can run next, ready to paste."""
    commands = diagnosis.next_commands
    if not commands:
        return
    output.line("  run one of these:" if len(commands) > 1 else "  run this:")
    width = max(len(command) for command, _ in commands)
    for command, effect in commands:
        output.line(f"    {command:<{width}}  # {effect}")


def saga_document(diagnosis: SagaDiagnosis, *, arguments: bool = False) -> dict[str, Any]:
    """Return a saga as a JSON object, for programs."""
    saga = diagnosis.saga
    document: dict[str, Any] = {
        "orchestrator": diagnosis.orchestrator,
        "workflow_id": diagnosis.workflow_id,
        "link": diagnosis.link,
        "phase": None if saga is None else saga.phase.value,
        "is_stuck": saga is not None and saga.is_stuck,
        "is_waiting": saga is not None and saga.is_waiting,
        "why_not_done": diagnosis.why,
        "pending_cancel": diagnosis.pending_cancel,
        "blocked_reason": diagnosis.blocked_reason.value if diagnosis.blocked_reason else None,
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
        "ended_by": saga.ended_by,
        "waits_for": [_blocker_document(blocker) for blocker in saga.blocked_by],
        "next_commands": [command for command, _ in diagnosis.next_commands],
        "created_at": moment_json(saga.created_at),
        "finished_at": moment_json(saga.finished_at),
        "purged_at": moment_json(saga.purged_at),
        "steps": [_step_document(step, arguments) for step in saga.steps],
    }
    return document | ({"outcome": _outcome_event(saga)} if arguments else {})


def _blocker_document(blocker: Blocker) -> dict[str, Any]:
    holder = {"orchestrator": blocker.holder.orchestrator, "event_id": blocker.holder.event_id}
    return {"lock": blocker.key, "holder": holder, "before": blocker.before}


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
        document["details"] = _refusal_details(step)
    return document
