"""Tells an unusable database from an error that one saga has caused."""

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from orchestrator.errors import Unreachable
from orchestrator.protocol.containment import is_raised_by_author
from orchestrator.store.connections.errors import condition_of, sqlstate


def is_lost(fault: BaseException) -> bool:
    """Whether an error means that the database itself is unusable, rather than that a saga failed."""
    if not isinstance(fault, DBAPIError):
        return isinstance(fault, OSError | PoolTimeout | Unreachable)
    return (
        condition_of(fault).is_outage
        or fault.connection_invalidated
        # An `InterfaceError` has no SQLSTATE, because the database driver itself raises it for an unusable connection.
        or isinstance(fault, InterfaceError)
        or (isinstance(fault, OperationalError) and sqlstate(fault) is None)
    )


def is_outage(fault: BaseException) -> bool:
    """Whether an error is the database's. An operation may raise an `OSError` of its own, for example of a network."""
    return is_lost(fault) and not (isinstance(fault, OSError) and is_raised_by_author(fault))
