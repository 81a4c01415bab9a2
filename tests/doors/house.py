"""What is behind the doors, as a whole; apart from the orchestrators, whose module is loaded anew in each sandbox."""

from orchestrator.definition.catalog import Catalog
from tests.doors.marks import check, make
from tests.doors.rings import OwnRing, PooledRing

CATALOG = Catalog.of(orchestrators=[OwnRing, PooledRing], operations=[check, make])
