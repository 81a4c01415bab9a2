"""Lets PostgreSQL commit but loses its answer together with the connection."""

from collections.abc import Container, Generator
from contextlib import contextmanager

from sqlalchemy import Connection, event

from orchestrator.store.core.database import Database


class EveryOther(Container[int]):
    """Odd numbers: if each transaction is repeated once, it loses its answer the first time only."""

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and number % 2 == 1


@contextmanager
def answers_to_commits_lost(database: Database, which: Container[int] = EveryOther()) -> Generator[list[int]]:
    """Lose the answers to some of a database's commits.

    Args:
        database: the database whose commits are counted.
        which: numbers of the commits to lose, counted from 1.

    Yields:
        The numbers of the commits whose answer was lost so far.
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
