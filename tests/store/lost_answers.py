"""Commits that happen, and whose answer is lost with the connection."""

from collections.abc import Container, Generator
from contextlib import contextmanager

from sqlalchemy import Connection, event

from orchestrator.store.core.database import Database


class EveryOther(Container[int]):
    """The first, the third and so on: each transaction that is repeated then loses its answer once."""

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and number % 2 == 1


@contextmanager
def answers_to_commits_lost(database: Database, which: Container[int] = EveryOther()) -> Generator[list[int]]:
    """PostgreSQL commits, and its answer is lost.

    Args:
        database: of whose connections.
        which: the commits, counted from 1.

    Yields:
        The commits whose answer was lost so far.
    """
    lost: list[int] = []
    committed = 0

    def lose(connection: Connection) -> None:
        nonlocal committed
        committed += 1
        if committed in which:
            connection.exec_driver_sql("COMMIT")
            lost.append(committed)
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.terminate()

    event.listen(database.engine.sync_engine, "commit", lose)
    try:
        yield lost
    finally:
        event.remove(database.engine.sync_engine, "commit", lose)
