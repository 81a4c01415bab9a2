"""The catalog that the workers serve. The orchestrators have their own module, because each sandbox loads it anew."""

from orchestrator.definition.catalog import Catalog
from tests.sources.marks import check, make
from tests.sources.orchestrators import OwnMark, PooledMark

CATALOG = Catalog.of(orchestrators=[OwnMark, PooledMark], operations=[check, make])
