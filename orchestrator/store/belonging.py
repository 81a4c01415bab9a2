"""Which Temporal a database belongs to: keeps recovery off copied databases, and the steps of two homes apart."""

from sqlalchemy import select, update

from orchestrator.errors import OrchestratorError, Unreachable
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.core.schema import saga_meta


class RecoveryRefused(OrchestratorError):
    """The database belongs to another Temporal, so recovering its sagas here would run another system's sagas again."""


async def check_belonging(database: Database, namespace: str, cluster_id: str) -> None:
    """Check that the database's sagas run on this Temporal. A database that records no Temporal passes.

    Raises:
        RecoveryRefused: the database belongs to another Temporal; the message says what to do.
    """
    known = await _belongs_to(database)
    if known[0] in (None, namespace) and known[1] in (None, cluster_id):
        return
    raise RecoveryRefused(
        f"The database at {database.shown} belongs to namespace {known[0]!r} of Temporal cluster {known[1]}, but this "
        f"is {namespace!r} of {cluster_id}. Nothing is recovered here, because the sagas of a copied database are the "
        "original's. If this Temporal has replaced one that is lost, run: orchestrator recover --adopt"
    )


async def check_shared(databases: Databases) -> None:
    """Check that no remote database holds the steps of another home.

    Sagas are identified by orchestrator and event, as are executions within a Temporal namespace. Two homes may
    therefore have sagas with equal ids. In a shared remote database, each would mistake the other's steps for its own
    and skip them.

    Raises:
        Unreachable: a remote database belongs to another home; the message says what to do.
    """
    home = await _belongs_to(databases.home)
    for name, database in databases.others.items():
        remote = await _belongs_to(database)
        if any(None not in pair and pair[0] != pair[1] for pair in zip(home, remote, strict=True)):
            raise Unreachable(
                f"The database {name!r} at {database.shown} belongs to namespace {remote[0]!r} of Temporal cluster "
                f"{remote[1]}, but home belongs to {home[0]!r} of {home[1]}. Another home has its steps there, and "
                "equal events would be mistaken for each other. Give each home its own database. If that home no "
                "longer exists, run: orchestrator recover --adopt"
            )


async def _belongs_to(database: Database) -> tuple[str | None, str | None]:
    statement = select(saga_meta.c.temporal_namespace, saga_meta.c.temporal_cluster_id)
    async with database.reading() as connection:
        row = (await connection.execute(statement)).first()
    return (None, None) if row is None else (row.temporal_namespace, row.temporal_cluster_id)


async def adopt(database: Database, namespace: str, cluster_id: str) -> None:
    """Make the database belong to this Temporal. None of its closed executions count as checked."""
    async with database.transaction() as connection:
        await connection.execute(
            update(saga_meta).values(temporal_namespace=namespace, temporal_cluster_id=cluster_id, swept_until=None)
        )
