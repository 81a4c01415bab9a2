"""What is public was chosen: a new name is a line that somebody reviewed."""

import orchestrator
from orchestrator import testing

PUBLIC_NAMES = [
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


def test_the_public_names_are_these_and_sorted() -> None:
    assert orchestrator.__all__ == PUBLIC_NAMES
    assert sorted(PUBLIC_NAMES) == PUBLIC_NAMES


def test_each_public_name_is_there_and_documented() -> None:
    for name in PUBLIC_NAMES:
        assert getattr(orchestrator, name).__doc__, name


def test_the_test_kit_has_these_names() -> None:
    assert testing.__all__ == [
        "Atomically",
        "Equality",
        "Example",
        "RecordingSaga",
        "Report",
        "added_events",
        "conformance",
        "run_conformance",
        "step_transaction",
    ]
