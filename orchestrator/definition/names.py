"""Checks the names of an application's events: each begins with its subject, and none ends in `-ING`.

`ACCOUNT_CREATED`, `MONEY_TRANSFER_REQUESTED`: a registered subject, then what happened to it, in the past tense. A
domain is registered by its module (`events/account.py`, `activities/account.py`), a process by its orchestrator. The
past tense is a convention: English has too many irregular verbs for a check, so only the present participle is refused.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.definition.catalog import Catalog
from orchestrator.definition.main_module import importable_name
from orchestrator.definition.source import Source
from orchestrator.errors import DefinitionError, Problem
from orchestrator.event import DomainEvent, event_type_of
from orchestrator.operation import Operation
from orchestrator.orchestrator import Orchestrator


def check_names(catalog: Catalog) -> None:
    """Check every event's name.

    Raises:
        DefinitionError: a name breaks a rule; the error lists every such name.
    """
    events, operations = list(catalog.events.values()), list(catalog.operations.values())
    if problems := sorted(problems_of_names(events, operations, list(catalog.orchestrators.values()))):
        raise DefinitionError(problems)


def problems_of_names(
    events: Sequence[type[DomainEvent]],
    operations: Sequence[Operation[..., Any]],
    orchestrators: Sequence[type[Orchestrator[Any, Any, Any]]],
) -> Iterator[Problem]:
    """Find every event whose name does not begin with a subject or ends in `-ING`."""
    modules = [event.__module__ for event in events] + [operation.module for operation in operations]
    domains = {_domain(module) for module in modules}
    processes = {event_type_of(orchestrator.__name__) for orchestrator in orchestrators}
    for event in events:
        say = Source.of(event).problem
        name = event.type_name()
        # A program that has only the contracts does not know which processes exist.
        if orchestrators and not any(_begins_with(name, subject) for subject in (*domains, *processes)):
            yield say(
                f"{event.__name__} has the event type {name}, which does not start with a registered subject: "
                f"{', '.join(sorted(domains | processes))}. Start its name with one of these, or register another: a "
                "domain by adding a module of that name, a process by adding its orchestrator"
            )
        if name.endswith("ING"):
            yield say(
                f"{event.__name__} has the event type {name}, which names something that is still going on. An event "
                f"says what has happened: use the past tense, as in {event.__name__}Requested"
            )


def _domain(module: str) -> str:
    return importable_name(module).rpartition(".")[2].upper()


def _begins_with(name: str, subject: str) -> bool:
    singular = subject.removesuffix("S")
    return name.startswith((f"{singular}_", f"{singular}S_"))
