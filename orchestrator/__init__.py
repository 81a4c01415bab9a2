"""Durable sagas on Temporal: typed domain events in, exactly one outcome out.

This module is the public face for authors and clients. Underneath, `drive` takes a saga forward or back and knows
neither Temporal nor SQL; `store` is the SQL that decides; `workflow` is what runs inside Temporal, deterministic;
`worker` and `client` reach Temporal from outside, `cli` serves operators, and `testing` serves authors.
"""

from typing import TYPE_CHECKING, Any

from orchestrator.definition.catalog import Catalog
from orchestrator.errors import (
    DefinitionError,
    EventRejected,
    EventTimeout,
    NotFinished,
    OrchestratorError,
    PublishIncomplete,
    Refused,
    SagaCancelled,
    SagaFailed,
    SagaUnknown,
    TransactionMisuse,
    Unreachable,
    UsageError,
)
from orchestrator.event import Contract, DomainEvent, FailureEvent, Fields, UndoneStep, upcaster
from orchestrator.external import Confirmed, ExternalCall, ExternalOperation, external_operation
from orchestrator.operation import Operation, OperationCall, operation, query
from orchestrator.orchestrator import Orchestrator
from orchestrator.retry import Retry
from orchestrator.saga import Saga
from orchestrator.transaction import Transaction

if TYPE_CHECKING:
    from orchestrator.client import BlockingEventBus, EventBus, Listening, SagaHandle

__all__ = [
    "BlockingEventBus",
    "Catalog",
    "Confirmed",
    "Contract",
    "DefinitionError",
    "DomainEvent",
    "EventBus",
    "EventRejected",
    "EventTimeout",
    "ExternalCall",
    "ExternalOperation",
    "FailureEvent",
    "Fields",
    "Listening",
    "NotFinished",
    "Operation",
    "OperationCall",
    "Orchestrator",
    "OrchestratorError",
    "PublishIncomplete",
    "Refused",
    "Retry",
    "Saga",
    "SagaCancelled",
    "SagaFailed",
    "SagaHandle",
    "SagaUnknown",
    "Transaction",
    "TransactionMisuse",
    "UndoneStep",
    "Unreachable",
    "UsageError",
    "external_operation",
    "operation",
    "query",
    "upcaster",
]


def __getattr__(name: str) -> Any:
    # The client's names on demand: contracts and operations need no connection to Temporal, nor its import.
    if name in ("BlockingEventBus", "EventBus", "Listening", "SagaHandle"):
        from orchestrator import client

        return getattr(client, name)
    raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
