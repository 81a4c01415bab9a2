"""What is known about one saga: its row in the database, and why Temporal's execution has not finished it."""

from collections.abc import Sequence
from dataclasses import dataclass

from temporalio.client import WorkflowExecutionStatus

from orchestrator.cli.diagnosis.blocked_reason import LAST_FAILURE, BlockedReason, Reason, describe_lock_wait
from orchestrator.cli.terminal.exit_codes import Exit
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.output import age_text
from orchestrator.protocol.commands import Phase, StepState
from orchestrator.protocol.names import is_partition
from orchestrator.store.queries.sagas import SagaView


@dataclass(frozen=True, slots=True)
class SagaDiagnosis:
    """What is known about one orchestrator's saga for an event."""

    orchestrator: str
    event_id: str
    workflow_id: str
    """The id of the execution that drives the saga, or of its own execution if none runs."""
    link: str
    saga: SagaView | None
    """The saga's row, or None if it has not been written yet."""
    reason: Reason | None
    """Why the saga is not done, as far as Temporal knows."""
    is_only: bool
    """Whether this is the only orchestrator that handles the event."""

    @property
    def is_open(self) -> bool:
        """Whether the saga has no outcome yet but may still get one."""
        return not self._was_rejected if self.saga is None else not self.saga.phase.is_final

    @property
    def is_driven(self) -> bool:
        """Whether an execution of the saga runs."""
        return self.reason is not None and self.reason.kind not in (BlockedReason.CLOSED, BlockedReason.GONE)

    @property
    def is_carried(self) -> bool:
        """Whether a partition drives the saga. Commands never act on it, because it carries other sagas as well."""
        return self.is_driven and is_partition(self.workflow_id)

    @property
    def phase(self) -> str:
        """The saga's phase in one word, as it is shown."""
        if self.reason is not None and self.reason.kind is BlockedReason.PARKED:
            return "parked"
        if self.saga is None:
            return "rejected" if self._was_rejected else "accepted"
        return shown_phase(self.saga)

    @property
    def exit(self) -> Exit:
        """The exit code for this saga."""
        if self.saga is None:
            return Exit.FAILED if self._was_rejected else Exit.NOT_FINISHED
        if not self.saga.phase.is_final:
            return Exit.NOT_FINISHED
        return Exit.COMPLETED if self.saga.phase is Phase.COMPLETED else Exit.FAILED

    @property
    def why(self) -> str | None:
        """Why the saga is not done, in one sentence, or None if it is done."""
        if self.saga is not None and self.saga.phase.is_final:
            return None
        from_row = self._reason_in_row()
        if self.reason is None or (from_row and self.reason.kind in self._reasons_known_from_row):
            return from_row
        from_temporal = self._explain(self.reason)
        if from_row is None:
            return from_temporal
        # The row's sentence already names the error.
        return f"{from_row}; {from_temporal.partition(LAST_FAILURE)[0]}"

    @property
    def pending_cancel(self) -> str | None:
        """A sentence that says why a pending cancellation has not been carried out, or None if none is pending."""
        if self.reason is None or not self.is_open:
            return None
        is_requested = self.reason.is_cancel_requested and self.is_driven
        ends_as = self.saga.ends_as if self.saga is not None and self._is_undoing else None
        if ends_as is Phase.FAILED or not (is_requested or ends_as is Phase.CANCELLED):
            return None  # If a saga is undone for another reason, its execution is cancelled only to start the undo.
        if self.saga is not None and self.saga.pivot is not None:
            return (
                f"cancellation was requested, but step {self.saga.pivot} cannot be undone, so the saga continues until "
                "it completes"
            )
        match self.reason.kind:
            case BlockedReason.BUG:
                progress = (
                    "the execution cannot carry it out because its workflow task fails. Recovery, which runs every 30 "
                    "seconds, restarts the execution with an empty history, and it undoes the saga without running "
                    f"`handle`. To do so now: {self.command('cancel')}"
                )
            case kind if kind.is_untaken:
                progress = "no worker has picked up the task"
            case BlockedReason.RETRYING if self._is_undoing:
                progress = "a compensation fails and is retried"
            case _:
                progress = "it is being carried out"
        return f"a cancellation is pending; {progress}"

    @property
    def blocked_reason(self) -> BlockedReason | None:
        """Why the saga is not done, as a constant for programs. None if it is done or the reason is unknown."""
        if not self.why:
            return None
        is_known_from_row = self.reason is None or self.reason.kind in self._reasons_known_from_row
        if is_known_from_row and self.saga is not None and self.saga.is_waiting:
            return BlockedReason.LOCKED
        return None if self.reason is None else self.reason.kind

    @property
    def next_commands(self) -> Sequence[tuple[str, str]]:
        """The commands that an operator can run next, each with its effect. Empty if nothing needs to be done."""
        saga = self.saga
        if saga is None or saga.phase.is_final:
            return ()
        return self._commands_if_stuck(saga) if saga.is_stuck else self._commands_if_not_stuck(saga)

    def command(self, name: str, *arguments: str) -> str:
        """Return a command about this saga, ready to paste."""
        orchestrator = () if self.is_only else ("--orchestrator", self.orchestrator)
        return command(name, self.event_id, *arguments, *orchestrator)

    def _commands_if_stuck(self, saga: SagaView) -> Sequence[tuple[str, str]]:
        commands = [(self.command("retry"), "retries immediately; fix the cause first")]
        is_forward = saga.phase is Phase.FORWARD
        stuck = next((step for step in saga.steps if step.number == saga.stuck_step), None)
        if stuck is not None and stuck.state is (StepState.ATTEMPTING if is_forward else StepState.DONE):
            effect = "continues without the step" if is_forward else "leaves the step's effect and undoes the rest"
            commands.append((self.command("skip", str(stuck.number), "--reason", "..."), effect))
        if is_forward and saga.pivot is None:
            commands.append((self.command("cancel"), "undoes the saga"))
        return commands

    def _commands_if_not_stuck(self, saga: SagaView) -> Sequence[tuple[str, str]]:
        has_no_driver = self.reason is not None and not self.is_driven
        commands = [(self.command("retry"), "resumes the saga")] if has_no_driver else []
        if saga.blocked_by:
            holder = saga.blocked_by[0].holder
            commands.append((command("status", holder.event_id), "shows the saga that it waits for"))
        return commands

    @property
    def _reasons_known_from_row(self) -> tuple[BlockedReason, ...]:
        """The reasons from Temporal that add nothing to those in the saga's row."""
        is_waiting = self.saga is not None and self.saga.is_waiting
        return (BlockedReason.WAITING, BlockedReason.WORKING) if is_waiting else (BlockedReason.WAITING,)

    def _reason_in_row(self) -> str | None:
        """Why the saga is not done, according to its row, or None if the row does not show it."""
        if self.saga is None:
            return None if self._was_rejected else "nothing is in the database yet"
        if self.saga.is_stuck:
            since = f" for {age_text(self.saga.stuck_since)}" if self.saga.stuck_since else ""
            return f"stuck at step {self.saga.stuck_step}{since}: {self.saga.stuck_error}"
        return describe_lock_wait(self.saga.blocked_by) if self.saga.blocked_by else None

    @property
    def _was_rejected(self) -> bool:
        return self.reason is not None and self.reason.status is WorkflowExecutionStatus.FAILED

    @property
    def _is_undoing(self) -> bool:
        return self.saga is not None and self.saga.phase is Phase.UNDOING

    def _explain(self, reason: Reason) -> str:
        """Return the reason's sentence, with its consequence for this saga."""
        match reason.kind:
            case BlockedReason.CLOSED if self.saga is None and self._was_rejected:
                return (
                    "its execution received a message that is not an event it can handle. The message is stored as a "
                    "dead letter; see the reason in the Web UI"
                )
            case BlockedReason.CLOSED if self.saga is None and reason.status is WorkflowExecutionStatus.COMPLETED:
                return (
                    "but its execution has completed, so the workers probably use another database. Set "
                    "ORCHESTRATOR_DATABASE_URL to theirs"
                )
            case BlockedReason.CLOSED | BlockedReason.GONE if self.saga is None:
                return f"{reason.sentence} before it wrote anything. Publish the event again with the same id"
            case BlockedReason.CLOSED | BlockedReason.GONE:
                return f"{reason.sentence} before the saga did, so nothing drives it"
            case BlockedReason.BUG if self.pending_cancel is None and not self._is_undoing:
                return f"{reason.sentence}. Nothing is undone; deploy a fix, and the saga continues"
            case _:
                return reason.sentence


def shown_phase(saga: SagaView) -> str:
    """Return a saga's phase in one word for display. `stuck` and `waiting` take precedence over the phase itself."""
    if saga.is_stuck:
        return "stuck"
    return "waiting" if saga.is_waiting else saga.phase.value
