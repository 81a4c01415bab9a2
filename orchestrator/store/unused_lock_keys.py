"""Removes heads of unused lock keys, because otherwise keys that are used only once would leave rows forever.

*No saga is overtaken.* A head is removed only while its key has no ticket, and is locked from before that check until
it is deleted. A saga that draws a ticket locks the head first, so no ticket can appear in between; a saga that waits
for the head finds it deleted and inserts a new one, whose tickets start again. A ticket that is being released exists
until that release commits.

*There is no deadlock.* Heads that other transactions have locked are skipped, and the removal waits for no other row.
"""

from sqlalchemy import Select, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_lock

BATCH = 500
"""The maximum number of heads that one transaction removes; sagas that draw tickets of these keys wait for it."""

_ticket = saga_lock.alias("ticket")
_drawn = select(func.count()).where(_ticket.c.key == saga_lock.c.key, _ticket.c.ticket > 0).correlate(saga_lock)
_UNUSED = (saga_lock.c.ticket == 0, _drawn.scalar_subquery() == 0)
"""Tickets are counted per head and not tested by NOT EXISTS, for which PostgreSQL may read the whole table."""


def _unused(limit: int) -> Select[tuple[str]]:
    return select(saga_lock.c.key).where(*_UNUSED).limit(limit).with_for_update(skip_locked=True, of=saga_lock)


async def remove_unused_heads(database: Database, *, limit: int = BATCH) -> int:
    """Remove some heads of keys for which no ticket is drawn, and return how many. Safe to run at any time."""

    async def remove(connection: AsyncConnection) -> int:
        keys = list(await connection.scalars(_unused(limit)))
        if not keys:
            return 0
        # In the next statement, which sees tickets that were drawn before the locks were acquired (see `locks`).
        removed = await connection.execute(delete(saga_lock).where(saga_lock.c.key.in_(keys), *_UNUSED))
        return removed.rowcount

    return await database.in_transaction(remove)
