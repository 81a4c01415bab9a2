"""Asks the server how an activity's previous attempt failed, because another worker may have run that attempt."""

import asyncio

from temporalio import activity
from temporalio.api.failure.v1 import Failure
from temporalio.service import RPCError

_PATIENCE = 3.0
"""Seconds to wait for the server's answer."""


async def last_failure() -> Failure | None:
    """Return the failure of the previous attempt, or None if it is unknown or the server does not answer in time."""
    info = activity.info()
    if info.workflow_id is None:
        return None
    try:
        handle = activity.client().get_workflow_handle(info.workflow_id, run_id=info.workflow_run_id)
        description = await asyncio.wait_for(handle.describe(), _PATIENCE)
    except (RPCError, TimeoutError, RuntimeError):  # a RuntimeError means that the activity has no client
        return None
    for pending in description.raw_description.pending_activities:
        if pending.activity_id == info.activity_id and pending.HasField("last_failure"):
            return pending.last_failure
    return None
