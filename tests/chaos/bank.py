"""The bank as a whole; apart from its orchestrators, whose module is loaded anew in each saga's sandbox."""

from orchestrator.definition.catalog import Catalog
from tests.chaos.accounts import balance, deliver, move, note, record
from tests.chaos.transfers import (
    OrderedTransfer,
    OrderedTransfers,
    OwnTransfer,
    OwnTransfers,
    PooledTransfer,
    PooledTransfers,
    Transfer,
)

PLACEMENTS: dict[type[Transfer], int] = {OwnTransfer: 4, PooledTransfer: 4, OrderedTransfer: 2}
"""Which event goes where, and how many parts of the load it is."""

CATALOG = Catalog.of(
    orchestrators=[OwnTransfers, PooledTransfers, OrderedTransfers], operations=[balance, deliver, move, note, record]
)
