"""Prepares a worker before it starts: checks the definitions, connects, and creates what is missing."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlmodel import SQLModel
from temporalio.api.workflowservice.v1 import GetClusterInfoRequest
from temporalio.client import Client

from orchestrator.client.connection import connect_temporal
from orchestrator.definition.catalog import Catalog
from orchestrator.definition.checks.application import check_application
from orchestrator.settings import Settings
from orchestrator.store.belonging import check_shared
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.migrations.migrate import migrate
from orchestrator.telemetry.streams import write_line
from orchestrator.worker.search_attributes import ensure_search_attributes
from orchestrator.workflow.converter import worker_data_converter


@dataclass(frozen=True, slots=True)
class Ready:
    """The checked parts that a worker needs."""

    client: Client
    database: Database
    catalog: Catalog
    others: Mapping[str, Database] = field(default_factory=dict[str, Database])

    @property
    def databases(self) -> Databases:
        """The home database and the remote ones."""
        return Databases(self.database, self.others)


async def prepare(settings: Settings, catalog: Catalog | None = None) -> Ready:
    """Find the orchestrators, connect to Temporal and the databases, and create what is missing.

    Args:
        settings: the worker's settings.
        catalog: the orchestrators and operations, by default those that the settings' packages declare.

    Raises:
        DefinitionError: the application's definitions have faults.
        Unreachable: Temporal or a database cannot be reached.
    """
    catalog = check_application(settings.packages, settings.databases, catalog)
    databases = Databases.at(settings.resolved_database_url, settings.databases, pool_size=settings.pool_size)
    await databases.check()
    client = await connect_temporal(settings, data_converter=worker_data_converter)
    if warning := await ensure_search_attributes(client):
        write_line(warning, to_stderr=True)
    cluster = await client.workflow_service.get_cluster_info(GetClusterInfoRequest())
    for name, database in databases:
        await migrate(
            database,
            name=name,
            namespace=client.namespace,
            cluster_id=cluster.cluster_id,
            application=SQLModel.metadata if settings.create_tables else None,
            migrations=settings.migrations,
        )
    await check_shared(databases)
    return Ready(client, databases.home, catalog, databases.others)
