"""What the previous attempt of an activity ended with. Only the server knows: the attempt may have been elsewhere."""

import asyncio

from temporalio import activity
from temporalio.api.failure.v1 import Failure
from temporalio.service import RPCError

_PATIENCE = 3.0


async def last_failure() -> Failure | None:
    """The failure of the attempt before this one; None if it is not known, or the server does not answer in time."""
    info = activity.info()
    if info.workflow_id is None:
        return None
    try:
        handle = activity.client().get_workflow_handle(info.workflow_id, run_id=info.workflow_run_id)
        description = await asyncio.wait_for(handle.describe(), _PATIENCE)
    except (RPCError, TimeoutError, RuntimeError):  # the last one: no client is at hand
        return None
    for pending in description.raw_description.pending_activities:
        if pending.activity_id == info.activity_id and pending.HasField("last_failure"):
            return pending.last_failure
    return None
