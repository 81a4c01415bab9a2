"""The activity that drives a wave."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from orchestrator.protocol import names
from orchestrator.protocol.wave import AWAY, WaveCommand, WaveReply
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.worker.attempt_failure import attempt_failed
from orchestrator.worker.outages import is_lost
from orchestrator.worker.partition.group_commit import GroupCommitSwitch
from orchestrator.worker.partition.wave import Wave


def wave_activity(steps: StoreSteps, client: Client, task_queue: str) -> Callable[..., Any]:
    """Return the activity that a partition runs, for a Temporal `Worker`."""
    switches: defaultdict[str, GroupCommitSwitch] = defaultdict(GroupCommitSwitch)

    @activity.defn(name=names.DRIVE_WAVE)
    async def drive_wave(*arguments: RawValue) -> WaveReply:
        info = activity.info()
        orchestrator = steps.catalog.orchestrators.get(info.workflow_type or "")
        if orchestrator is None or not names.is_partition(info.workflow_id or "") or not arguments:
            raise ApplicationError(
                f"The activity {names.DRIVE_WAVE} runs only in a partition", type="saga.required", non_retryable=True
            )
        command = WaveCommand.model_validate_json(arguments[0].payload.data)
        wave = Wave(
            steps,
            client,
            task_queue,
            orchestrator,
            owner=(info.workflow_id or "", command.first_run_id),
            run_id=info.workflow_run_id or "",
            group_commits=switches[orchestrator.__name__],
        )
        try:
            return await wave.drive(command, [raw.payload.data for raw in arguments[1:]])
        except Exception as fault:
            kind = AWAY if is_lost(fault) else None
            waiting = tuple(f"{info.workflow_id}/{info.workflow_run_id}/{item.position}" for item in command.items)
            raise attempt_failed(fault, steps.databases, final=True, kind=kind, waiting=waiting) from fault

    return drive_wave
