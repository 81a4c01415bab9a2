"""Heads of keys that nobody locks any more are removed: a key that is new each time must not leave a row for ever.

*Nobody is overtaken.* A head goes only while no ticket of its key is drawn, and is locked from before that is looked at
until it is gone: who draws, locks the head first, so no ticket can come in between, and whoever waits for it finds it
gone and makes a new one, whose tickets begin anew. A ticket that is being given back is there until that commits.

*Nobody waits in a circle.* Heads that somebody else has locked are passed over, and no other row is waited for.
"""

from sqlalchemy import Select, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_lock

BATCH = 500
"""Heads that one transaction removes: who draws one of them waits so long."""

_ticket = saga_lock.alias("ticket")
_drawn = select(func.count()).where(_ticket.c.key == saga_lock.c.key, _ticket.c.ticket > 0).correlate(saga_lock)
_UNUSED = (saga_lock.c.ticket == 0, _drawn.scalar_subquery() == 0)
"""Tickets are counted for each head: for a NOT EXISTS, PostgreSQL may read the whole table to remove a few heads."""


def _unused(limit: int) -> Select[tuple[str]]:
    return select(saga_lock.c.key).where(*_UNUSED).limit(limit).with_for_update(skip_locked=True, of=saga_lock)


async def remove_unused_heads(database: Database, *, limit: int = BATCH) -> int:
    """Remove some heads of keys for which no ticket is drawn. Safe beside anything; returns how many are gone."""

    async def remove(connection: AsyncConnection) -> int:
        keys = list(await connection.scalars(_unused(limit)))
        if not keys:
            return 0
        # In the next statement, which sees what was drawn until the locks were had: see `locks`.
        removed = await connection.execute(delete(saga_lock).where(saga_lock.c.key.in_(keys), *_UNUSED))
        return removed.rowcount

    return await database.in_transaction(remove)
