"""Checks that a database can be written: it is not read-only, its disk is not full, and connections are available."""

import secrets
from uuid import uuid4

from sqlalchemy import delete, insert

from orchestrator.store.core.database import Database
from orchestrator.store.core.schema import saga_dead_letter

_SIZE = 16 * 1024
"""How many bytes are written and deleted; this is more than the free space in the pages of a full database."""


async def write_probe(database: Database) -> None:
    """Write a row and delete it again, in one transaction.

    Raises:
        Exception: the error of the database or its driver that prevented the write.
    """
    # A negative id, so that the ids of real dead letters have no gaps.
    number = -1 - secrets.randbelow(2**31 - 1)
    letter = {
        "id": number,
        "source": "write_probe",
        "origin_workflow_id": "write_probe",
        "origin_run_id": str(uuid4()),
        "origin_position": 1,
        "raw": secrets.token_bytes(_SIZE),
        "size": _SIZE,
        "code": "write_probe",
        "reason": "",
    }
    async with database.transaction() as connection:
        await connection.execute(insert(saga_dead_letter).values(letter))
        await connection.execute(delete(saga_dead_letter).where(saga_dead_letter.c.id == number))
