"""`orchestrator status`: where an event's sagas stand, why one is not done, and what to do about one that is stuck."""

import asyncio
import json
from typing import Annotated, Any

import typer

from orchestrator.cli.sagas.diagnosis import SagaDiagnosis, find, told_of_letter
from orchestrator.cli.terminal.exit_codes import Exit, worst_of
from orchestrator.cli.terminal.output import Output, ago, moment_json
from orchestrator.protocol.commands import Blocker, Phase, StepState
from orchestrator.settings import Settings
from orchestrator.store.queries.sagas import SagaView, StepView


def status(
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="As `publish` printed it.")],
    arguments: Annotated[
        bool, typer.Option("--arguments", help="Show what each step was given and gave back; it may be personal.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")] = False,
) -> int:
    """Show where an event's sagas stand, step by step, and why one is not done; or which dead letter has it.

    The exit code is 0 completed, 1 failed or cancelled, 4 not finished, 2 no such event, 3 database unreachable.

    \b
    Examples:
      orchestrator status 5f0c7d62-5d0e-4a38-9d0b-6f6d8f8f4f6e
      orchestrator status order-17 --arguments
      orchestrator status order-17 --json
    """
    output = Output(as_json)
    settings = Settings()
    found = asyncio.run(find(settings, event_id))
    if as_json:
        document = {
            "event_id": event_id,
            "sagas": [saga_document(one, arguments=arguments) for one in found.standings],
            "dead_letters": [
                {"number": one.id, "code": one.code, "reason": one.reason, "settled_as": one.settled_as}
                for one in found.letters
            ],
            "remarks": list(found.remarks),
        }
        output.document(document)
    else:
        for number, standing in enumerate(found.standings):
            if number:
                output.say()
            _show(standing, output, arguments=arguments)
        for letter in found.letters:
            output.state("rejected" if letter.is_open else "settled", told_of_letter(letter))
    for remark in found.remarks:
        output.remark(remark)
    rejected = [Exit.FAILED] if found.letters and not found.standings else []
    return worst_of([*(one.exit for one in found.standings), *rejected])


def _show(standing: SagaDiagnosis, output: Output, *, arguments: bool) -> None:
    saga = standing.saga
    output.state(standing.phase, f"{standing.orchestrator}  {_when(saga)}".rstrip())
    output.say(f"  {standing.workflow_id}")
    output.say(f"  {standing.link}")
    if saga is not None and saga.error_code:
        word = "because" if saga.phase.is_final else f"undoing it, as {(saga.ends_as or Phase.FAILED).value}, because"
        output.say(f"  {word} {saga.error_code}: {saga.message}{_by(saga)}")
    if standing.why:
        output.say(f"  not done: {standing.why}", style="yellow")
        say_next(standing, output)
    if standing.pending_cancel:
        output.say(f"  {standing.pending_cancel}", style="yellow")
    if saga is not None and saga.purged_at is not None:
        output.say(f"  purged on {saga.purged_at:%Y-%m-%d}: its steps and its event's fields are deleted")
    steps = () if saga is None else saga.steps
    for step in steps:
        output.state(step.state.value, f"step {step.number}: {step.shown}{_beside(step)}", indent=2)
        if arguments:
            output.say(f"              given {step.arguments}")
            if step.result is not None:
                output.say(f"              gave  {step.result}")
    if arguments and saga is not None and saga.outcome is not None:
        output.say(f"  outcome {json.dumps(_event_of(saga), ensure_ascii=False)}")


def _by(saga: SagaView) -> str:
    is_told = saga.ended_by is None or saga.ended_by in (saga.message or "")
    return "" if is_told else f" (by {saga.ended_by})"


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


def say_next(standing: SagaDiagnosis, output: Output) -> None:
    """What a person can do about a saga, as commands to paste."""
    told = standing.next_commands
    if not told:
        return
    output.say("  what can be done:" if len(told) > 1 else "  what to do:")
    width = max(len(pasted) for pasted, _ in told)
    for pasted, what in told:
        output.say(f"    {pasted:<{width}}  # {what}")


def saga_document(standing: SagaDiagnosis, *, arguments: bool = False) -> dict[str, Any]:
    """A saga for programs."""
    saga = standing.saga
    document: dict[str, Any] = {
        "orchestrator": standing.orchestrator,
        "workflow_id": standing.workflow_id,
        "link": standing.link,
        "phase": None if saga is None else saga.phase.value,
        "is_stuck": saga is not None and saga.is_stuck,
        "is_waiting": saga is not None and saga.is_waiting,
        "why_not_done": standing.why,
        "pending_cancel": standing.pending_cancel,
        "hold_up": standing.hold_up.value if standing.hold_up else None,
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
        "waits_for": [_blocker_document(one) for one in saga.blocked_by],
        "next_commands": [pasted for pasted, _ in standing.next_commands],
        "created_at": moment_json(saga.created_at),
        "finished_at": moment_json(saga.finished_at),
        "purged_at": moment_json(saga.purged_at),
        "steps": [_step_document(step, arguments) for step in saga.steps],
    }
    return document | ({"outcome": _event_of(saga)} if arguments else {})


def _blocker_document(by: Blocker) -> dict[str, Any]:
    holder = {"orchestrator": by.holder.orchestrator, "event_id": by.holder.event_id}
    return {"lock": by.key, "holder": holder, "before": by.before}


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
