"""Waiting until a saga has its outcome, by its row: whoever drives it, and however often that changes."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from temporalio.client import Client
from temporalio.service import RPCError

from orchestrator.cli.sagas.diagnosis import SagaDiagnosis, find
from orchestrator.cli.sagas.nudge import begin_undoing_again
from orchestrator.cli.sagas.status import say_next
from orchestrator.cli.terminal.exit_codes import Exit
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.output import Output
from orchestrator.errors import SagaUnknown
from orchestrator.protocol.commands import Phase, StepState
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.queries.sagas import NoTables, SagaView, sagas_of_event

_LOOKS = (0.02, 0.05, 0.1, 0.2)
"""Seconds between looks at the row: soon at first, as most sagas end at once."""
_QUIET = 2.0
"""Seconds without a change after which the reason is looked for."""
_SHOWN = (StepState.DONE, StepState.REFUSED, StepState.UNDONE, StepState.SKIPPED)


async def settle(
    client: Client,
    settings: Settings,
    standing: SagaDiagnosis,
    *,
    timeout_seconds: float,
    output: Output,
    known: Mapping[int, StepState] | None = None,
    begins_again: bool = False,
) -> SagaDiagnosis:
    """Wait for a saga's outcome, and say what happens meanwhile.

    Args:
        client: a connection.
        settings: where the database is.
        standing: the saga, as it was last seen.
        timeout_seconds: how long at most.
        output: the command's voice.
        known: steps whose state has been told already.
        begins_again: have an execution whose workflow task fails begin again, because what was decided must be done.

    Returns:
        Where it stands at the end; still open if the timeout was over first.

    Raises:
        Unreachable: the database cannot be reached.
    """
    database = Database(settings.resolved_database_url)
    following = _Following(client, settings, standing, output, known or {}, begins_again=begins_again)
    try:
        async with asyncio.timeout(timeout_seconds):
            await following.until_ended(database)
    except TimeoutError:
        pass
    finally:
        await database.close()
    return await look_again(client, settings, standing)


async def look_again(client: Client, settings: Settings, standing: SagaDiagnosis) -> SagaDiagnosis:
    """The same saga as it stands now."""
    try:
        found = await find(settings, standing.event_id, client)
    except (SagaUnknown, NoTables):
        return standing
    return next((one for one in found.standings if one.orchestrator == standing.orchestrator), standing)


def tell_outcome(standing: SagaDiagnosis, output: Output, *, timeout_seconds: float | None = None) -> Exit:
    """Say how a saga ended, or why it has not; its exit code."""
    saga = standing.saga
    if standing.is_open or saga is None:
        within = "" if timeout_seconds is None else f" within {timeout_seconds:g} s"
        why = f": {standing.why}" if standing.why else ""
        output.remark(f"{standing.workflow_id} has not finished{within}; it goes on{why}")
        say_next(standing, output)
        output.say(f"See where it stands: {command('status', standing.event_id)}")
        return standing.exit
    event: dict[str, Any] = json.loads(saga.outcome or "{}").get("event", {})
    data: dict[str, Any] = event.get("data", {})
    if saga.phase is Phase.COMPLETED:
        output.state(saga.phase.value, f"{event.get('type', '')} {json.dumps(data, ensure_ascii=False)}")
        return standing.exit
    steps: list[dict[str, Any]] = data.get("undone", [])
    undone = ", ".join(str(step["operation"]) for step in steps if not step.get("skipped"))
    skipped = ", ".join(str(step["operation"]) for step in steps if step.get("skipped"))
    after = f"; undone: {undone}" if undone else "; nothing was undone"
    left = f"; skipped, so its effect stands: {skipped}" if skipped else ""
    output.state(saga.phase.value, f"{saga.error_code}: {saga.message}{after}{left}")
    return standing.exit


class _Following:
    """What was seen of a saga so far."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        standing: SagaDiagnosis,
        output: Output,
        known: Mapping[int, StepState],
        *,
        begins_again: bool,
    ) -> None:
        self._client = client
        self._settings = settings
        self._standing = standing
        self._output = output
        steps = () if standing.saga is None else standing.saga.steps
        self._states = {one.number: one.state for one in steps} | dict(known)
        self._is_stuck = standing.saga is not None and standing.saga.is_stuck
        self._remarked = False
        self._begins_again = begins_again

    async def until_ended(self, database: Database) -> None:
        looks = 0
        quiet_since = asyncio.get_running_loop().time()
        while True:
            saga = await self._read(database)
            if saga is not None and self._tell(saga):
                quiet_since = asyncio.get_running_loop().time()
            if saga is not None and saga.phase.is_final:
                return
            if not self._remarked and asyncio.get_running_loop().time() - quiet_since > _QUIET:
                await self._remark_nobody()
                quiet_since = asyncio.get_running_loop().time()
            await asyncio.sleep(_LOOKS[min(looks, len(_LOOKS) - 1)])
            looks += 1

    async def _read(self, database: Database) -> SagaView | None:
        try:
            sagas = await sagas_of_event(database, self._standing.event_id)
        except NoTables:
            return None
        return next((one for one in sagas if one.orchestrator == self._standing.orchestrator), None)

    def _tell(self, saga: SagaView) -> bool:
        """Say what is new; whether anything was."""
        news = False
        for step in sorted(saga.steps, key=lambda one: -one.number if saga.phase is not Phase.FORWARD else one.number):
            if step.state is not self._states.get(step.number):
                self._states[step.number] = step.state
                news = True
                if step.state in _SHOWN:
                    self._output.state(step.state.value, f"step {step.number}: {step.shown}", indent=2)
        if saga.is_stuck and not self._is_stuck:
            news = True
            self._output.state("stuck", f"step {saga.stuck_step}: {saga.stuck_error}", indent=2)
        self._is_stuck = saga.is_stuck
        return news

    async def _remark_nobody(self) -> None:
        try:
            async with asyncio.timeout(5):
                now = await look_again(self._client, self._settings, self._standing)
        except (TimeoutError, RPCError):
            return
        if self._begins_again and await begin_undoing_again(self._client, now):
            self._remarked = True
            self._output.remark(
                f"its workflow task fails, so {now.workflow_id} begins again with an empty history, and undoes"
            )
        if now.reason is not None and now.reason.kind.is_untaken:
            self._remarked = True
            self._output.remark(now.reason.sentence)
