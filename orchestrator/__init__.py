"""Durable sagas on Temporal: typed domain events in, exactly one outcome out.

This module is the public API for authors and clients. Below it, `drive` moves a saga forward or undoes it, without
Temporal and without SQL; `store` contains the SQL that decides; `workflow` is the deterministic code that Temporal
runs. `worker` and `client` connect to Temporal; `cli` is for operators, and `testing` for authors.
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
    # Import the client's names on demand, because contracts and operations do not need Temporal's slow import.
    if name in ("BlockingEventBus", "EventBus", "Listening", "SagaHandle"):
        from orchestrator import client

        return getattr(client, name)
    raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
