"""Checks of an application's event names: whose event it is comes first, and that it has happened last.

`ACCOUNT_CREATED`, `MONEY_TRANSFER_REQUESTED`: a registered subject, then what became of it, in the past tense. A
domain is registered by its module (`events/account.py`, `activities/account.py`), a process by its orchestrator.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.catalog import Catalog
from orchestrator.errors import DefinitionError, Problem
from orchestrator.event import DomainEvent, event_type_of
from orchestrator.main_module import importable_name
from orchestrator.operation import Operation, Source
from orchestrator.orchestrator import Orchestrator

_IRREGULAR = """
ARISEN AWOKEN BEGUN BID BOUGHT BOUND BROKEN BROUGHT BUILT BURNT CAST CAUGHT CHOSEN COME CUT DEALT DONE DRAWN DRIVEN
FALLEN FELT FOUGHT FOUND FROZEN GIVEN GONE GROWN HEARD HELD HIDDEN HIT KEPT KNOWN LAID LED LEFT LENT LET LOST MADE MET
OVERDRAWN PAID PUT READ RESET RUN SAID SEEN SENT SET SHOWN SHUT SOLD SPENT SPLIT SPOKEN STOLEN STRUCK SWORN TAKEN TOLD
TORN UNDERSTOOD UNDONE WITHDRAWN WON WORN WRITTEN
"""
_PRESENT = ("BLEED", "BREED", "EXCEED", "FEED", "NEED", "PROCEED", "RED", "SEED", "SPEED", "SUCCEED", "BED", "HUNDRED")


def check_names(catalog: Catalog) -> None:
    """Hold every event's name against the rule.

    Raises:
        DefinitionError: with every name that does not follow it.
    """
    events, operations = list(catalog.events.values()), list(catalog.operations.values())
    if problems := sorted(problems_of_names(events, operations, list(catalog.orchestrators.values()))):
        raise DefinitionError(problems)


def problems_of_names(
    events: Sequence[type[DomainEvent]],
    operations: Sequence[Operation[..., Any]],
    orchestrators: Sequence[type[Orchestrator[Any, Any, Any]]],
) -> Iterator[Problem]:
    """Every event whose name does not say whose it is, or that it has happened."""
    domains = {_domain(one.__module__) for one in events} | {_domain(one.module) for one in operations}
    processes = {event_type_of(one.__name__) for one in orchestrators}
    for event in events:
        say = Source.of(event).problem
        name = event.type_name()
        # Who has the contracts alone does not know which processes there are.
        if orchestrators and not any(_begins_with(name, subject) for subject in (*domains, *processes)):
            yield say(
                f"{event.__name__} is the event type {name}, which begins with no subject that is registered: "
                f"{', '.join(sorted(domains | processes))}. Begin its name with one of these, or register another: a "
                "domain by a module of its name, a process by its orchestrator"
            )
        if not is_past_tense(name):
            yield say(
                f"{event.__name__} is the event type {name}, which does not end in the past tense: an event tells what "
                f"has happened. Name it as in {event.__name__}Requested, or with the verb's past participle last"
            )


def is_past_tense(event_type: str) -> bool:
    """Whether the last word of an event's type is a past participle: `...ED`, or an irregular verb's."""
    last = event_type.rpartition("_")[2]
    return last in _IRREGULAR.split() or (last.endswith("ED") and last not in _PRESENT)


def _domain(module: str) -> str:
    return importable_name(module).rpartition(".")[2].upper()


def _begins_with(name: str, subject: str) -> bool:
    one = subject.removesuffix("S")
    return name.startswith((f"{one}_", f"{one}S_"))
