"""The bank's catalog. The orchestrators have their own module, because each sandbox loads it anew."""

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
"""The event types, one per placement, each with its share of the load."""

CATALOG = Catalog.of(
    orchestrators=[OwnTransfers, PooledTransfers, OrderedTransfers], operations=[balance, deliver, move, note, record]
)
