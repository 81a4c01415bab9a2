"""Waits until a saga's row has an outcome, whatever drives the saga, and prints how the saga ended."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from temporalio.client import Client
from temporalio.service import RPCError

from orchestrator.cli.diagnosis.event import EventDiagnosis, diagnose
from orchestrator.cli.diagnosis.saga import SagaDiagnosis
from orchestrator.cli.sagas.nudge import restart_failing_execution
from orchestrator.cli.sagas.status import print_next_commands, saga_document
from orchestrator.cli.terminal.exit_codes import Exit, worst_of
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.output import Output
from orchestrator.errors import SagaUnknown
from orchestrator.protocol.commands import Phase, StepState
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.queries.sagas import NoTables, SagaView, sagas_of_event

_POLL_DELAYS = (0.02, 0.05, 0.1, 0.2)
"""Seconds between reads of the row. They are short at first, because most sagas end immediately."""
_QUIET = 2.0
"""After how many seconds without a change the command asks Temporal for the reason."""
_SHOWN_STATES = (StepState.DONE, StepState.REFUSED, StepState.UNDONE, StepState.SKIPPED)


async def wait_for_outcome(
    client: Client,
    settings: Settings,
    diagnosis: SagaDiagnosis,
    *,
    timeout_seconds: float,
    output: Output,
    known: Mapping[int, StepState] | None = None,
    restarts_failing: bool = False,
) -> SagaDiagnosis:
    """Wait for a saga's outcome, and print each change until then.

    Args:
        client: a connection to Temporal.
        settings: the settings, with the address of the database.
        diagnosis: the saga as it was last seen.
        timeout_seconds: the maximum number of seconds to wait.
        output: prints the changes.
        known: steps whose current state has already been printed.
        restarts_failing: whether to restart an execution whose workflow task fails, so that it undoes the saga.

    Returns:
        The saga's last diagnosis. It is still open if the timeout has passed.

    Raises:
        Unreachable: the database cannot be reached.
    """
    database = Database(settings.resolved_database_url)
    progress = _ProgressPrinter(client, settings, diagnosis, output, known or {}, restarts_failing=restarts_failing)
    try:
        async with asyncio.timeout(timeout_seconds):
            await progress.until_ended(database)
    except TimeoutError:
        pass
    finally:
        await database.close()
    return await _diagnose_again(client, settings, diagnosis)


async def _diagnose_again(client: Client, settings: Settings, diagnosis: SagaDiagnosis) -> SagaDiagnosis:
    """Return a new diagnosis of the same saga."""
    try:
        event = await diagnose(settings, diagnosis.event_id, client)
    except (SagaUnknown, NoTables):
        return diagnosis
    return next((current for current in event.sagas if current.orchestrator == diagnosis.orchestrator), diagnosis)


def print_outcome(diagnosis: SagaDiagnosis, output: Output, *, timeout_seconds: float | None = None) -> Exit:
    """Print how a saga ended, or why it has not ended, and return its exit code."""
    saga = diagnosis.saga
    if diagnosis.is_open or saga is None:
        within = "" if timeout_seconds is None else f" within {timeout_seconds:g} s"
        why = f": {diagnosis.why}" if diagnosis.why else ""
        output.remark(f"{diagnosis.workflow_id} has not finished{within} and continues{why}")
        print_next_commands(diagnosis, output)
        output.line(f"See its status: {command('status', diagnosis.event_id)}")
        return diagnosis.exit
    event: dict[str, Any] = json.loads(saga.outcome or "{}").get("event", {})
    data: dict[str, Any] = event.get("data", {})
    if saga.phase is Phase.COMPLETED:
        output.state(saga.phase.value, f"{event.get('type', '')} {json.dumps(data, ensure_ascii=False)}")
        return diagnosis.exit
    steps: list[dict[str, Any]] = data.get("undone", [])
    undone = ", ".join(str(step["operation"]) for step in steps if not step.get("skipped"))
    skipped = ", ".join(str(step["operation"]) for step in steps if step.get("skipped"))
    after = f"; undone: {undone}" if undone else "; nothing was undone"
    remaining = f"; skipped, so their effects remain: {skipped}" if skipped else ""
    output.state(saga.phase.value, f"{saga.error_code}: {saga.message}{after}{remaining}")
    return diagnosis.exit


def print_already_ended(event: EventDiagnosis, orchestrator: str | None, output: Output) -> Exit:
    """Print how already ended sagas ended, and return their exit code."""
    ended = [diagnosis for diagnosis in event.sagas if orchestrator in (None, diagnosis.orchestrator)]
    for diagnosis in ended:
        output.line(f"{diagnosis.workflow_id} has already ended, so nothing was done.")
        if diagnosis.saga is None:
            output.state(diagnosis.phase, diagnosis.why or "")
        else:
            print_outcome(diagnosis, output)
    if output.as_json:
        output.document({"did": None, "sagas": [saga_document(diagnosis) for diagnosis in ended]})
    return worst_of([diagnosis.exit for diagnosis in ended])


class _ProgressPrinter:
    """Prints each change of a saga once."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        diagnosis: SagaDiagnosis,
        output: Output,
        known: Mapping[int, StepState],
        *,
        restarts_failing: bool,
    ) -> None:
        self._client = client
        self._settings = settings
        self._diagnosis = diagnosis
        self._output = output
        steps = () if diagnosis.saga is None else diagnosis.saga.steps
        self._states = {step.number: step.state for step in steps} | dict(known)
        self._is_stuck = diagnosis.saga is not None and diagnosis.saga.is_stuck
        self._has_remarked = False
        self._restarts_failing = restarts_failing

    async def until_ended(self, database: Database) -> None:
        """Read the saga's row until it has an outcome."""
        reads = 0
        quiet_since = asyncio.get_running_loop().time()
        while True:
            saga = await self._read(database)
            if saga is not None and self._print_changes(saga):
                quiet_since = asyncio.get_running_loop().time()
            if saga is not None and saga.phase.is_final:
                return
            if not self._has_remarked and asyncio.get_running_loop().time() - quiet_since > _QUIET:
                await self._look_for_obstacle()
                quiet_since = asyncio.get_running_loop().time()
            await asyncio.sleep(_POLL_DELAYS[min(reads, len(_POLL_DELAYS) - 1)])
            reads += 1

    async def _read(self, database: Database) -> SagaView | None:
        try:
            sagas = await sagas_of_event(database, self._diagnosis.event_id)
        except NoTables:
            return None
        return next((saga for saga in sagas if saga.orchestrator == self._diagnosis.orchestrator), None)

    def _print_changes(self, saga: SagaView) -> bool:
        """Print what has changed, and return whether anything has changed."""
        has_changed = False
        is_forward = saga.phase is Phase.FORWARD
        for step in sorted(saga.steps, key=lambda step: step.number if is_forward else -step.number):
            if step.state is not self._states.get(step.number):
                self._states[step.number] = step.state
                has_changed = True
                if step.state in _SHOWN_STATES:
                    self._output.state(step.state.value, f"step {step.number}: {step.shown}", indent=2)
        if saga.is_stuck and not self._is_stuck:
            has_changed = True
            self._output.state("stuck", f"step {saga.stuck_step}: {saga.stuck_error}", indent=2)
        self._is_stuck = saga.is_stuck
        return has_changed

    async def _look_for_obstacle(self) -> None:
        """Print once that no worker picks up the saga's task. Restart its execution if its workflow task fails."""
        try:
            async with asyncio.timeout(5):
                current = await _diagnose_again(self._client, self._settings, self._diagnosis)
        except (TimeoutError, RPCError):
            return
        if self._restarts_failing and await restart_failing_execution(self._client, current):
            self._has_remarked = True
            self._output.remark(
                f"{current.workflow_id} was restarted with an empty history, because its workflow task fails; the new "
                "execution undoes the saga"
            )
        if current.reason is not None and current.reason.kind.is_untaken:
            self._has_remarked = True
            self._output.remark(current.reason.sentence)
