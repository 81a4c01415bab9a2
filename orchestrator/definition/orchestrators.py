"""Checks of one orchestrator: its name, its events, its options, and the signatures of its methods."""

import inspect
from collections.abc import Iterator
from inspect import Parameter
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from orchestrator.definition.durations import fault_of_duration
from orchestrator.definition.source import Source
from orchestrator.definition.types import name_of
from orchestrator.errors import Problem
from orchestrator.event import DomainEvent, FailureEvent
from orchestrator.orchestrator import Orchestrator, is_base
from orchestrator.protocol.reserved_names import TEMPORAL_PREFIX, WORKFLOWS
from orchestrator.saga import Saga

NAME_LIMIT = 120
"""The maximum length of an orchestrator's name. `/event/` and an event id of up to 128 follow it in a workflow id.

On PostgreSQL and MySQL, Temporal can store 255 characters of a workflow id. The server does not reject a longer one,
but fails at each attempt to store it.
"""
PARTITIONS_LIMIT = 1_000
"""The maximum number of partitions of an orchestrator. Each is an execution that a worker keeps in memory."""

AnyOrchestrator = type[Orchestrator[Any, Any, Any]]


def problems_of_orchestrator(orchestrator: AnyOrchestrator) -> Iterator[Problem]:
    """Find every fault of one orchestrator."""
    say = Source.of(orchestrator).problem
    name = orchestrator.__name__
    if "." in orchestrator.__qualname__:
        yield say(f"{orchestrator.__qualname__} cannot be imported by its name: define {name} at the top of a module")
    if name in WORKFLOWS:
        others = _listed(WORKFLOWS - {name})
        yield say(f"{name} is the name of one of the engine's workflows, as are {others}: rename the class")
    elif name.startswith(TEMPORAL_PREFIX):
        yield say(f"{name} begins with {TEMPORAL_PREFIX}, which is reserved for Temporal: rename the class")
    if len(name) > NAME_LIMIT:
        yield say(f"{name} is longer than {NAME_LIMIT} characters: shorten it")
    yield from _problems_of_init(orchestrator)
    yield from (say(f"{name}: {fault}") for fault in _faults_of_options(orchestrator))
    requests, completed, failed = (getattr(orchestrator, role, None) for role in ("requests", "completed", "failed"))
    if requests is None or completed is None or failed is None:
        base = next((parent.__name__ for parent in orchestrator.__bases__ if is_base(parent)), "Orchestrator")
        yield say(
            f"{name} does not declare its three events: write "
            f"`class {name}({base}[{name}Requested, {name}Completed, {name}Failed])`"
        )
        yield from _problems_of_handle(orchestrator, None)
        yield from _problems_of_keys(orchestrator, None)
        return
    faults = list(_faults_of_events(requests, completed, failed))
    yield from (say(f"{name}: {fault}") for fault in faults)
    yield from _problems_of_handle(orchestrator, None if faults else (orchestrator.requests, orchestrator.completed))
    yield from _problems_of_keys(orchestrator, None if faults else orchestrator.requests)


def _faults_of_options(orchestrator: AnyOrchestrator) -> Iterator[str]:
    deadline: object = orchestrator.deadline
    fault = None if deadline is None else fault_of_duration(deadline, "deadline = timedelta(hours=1)")
    if fault is not None:
        yield f"its deadline is {fault}; None, the default, means no time limit"
    partitions: Any = orchestrator.partitions
    if partitions is not None and (
        not isinstance(partitions, int) or isinstance(partitions, bool) or not 1 <= partitions <= PARTITIONS_LIMIT
    ):
        yield f"its partitions are {partitions!r}: write a number from 1 to {PARTITIONS_LIMIT}, as in `partitions = 8`"
    awaited: Any = orchestrator.awaited
    if not isinstance(awaited, tuple):
        yield "`awaited` is not a tuple: write `awaited = (PaymentConfirmed,)`"
        return
    event: Any
    for event in awaited:  # pyright: ignore[reportUnknownVariableType]
        if not _is_event(event):
            yield f"it waits for {name_of(event)}, which is not a subclass of DomainEvent"
        elif event in getattr(orchestrator, "requests", ()):
            yield f"it waits for {name_of(event)}, which starts it: a saga must wait for another event"


def _faults_of_events(requests: tuple[Any, ...], completed: Any, failed: Any) -> Iterator[str]:
    for requested in requests:
        if not _is_event(requested):
            which = "its first event" if len(requests) == 1 else "one of the events that start it"
            yield f"{which}, {name_of(requested)}, is not a subclass of DomainEvent"
    if not _is_event(completed):
        yield f"its second event, {name_of(completed)}, is not a subclass of DomainEvent"
    elif issubclass(completed, FailureEvent):
        yield (
            f"its second event, {name_of(completed)}, is a FailureEvent: that is the third event, and the second "
            "reports success"
        )
    if not _is_event(failed) or not issubclass(failed, FailureEvent):
        yield (
            f"its third event, {name_of(failed)}, is not a subclass of FailureEvent: "
            f'write `class {name_of(failed)}(FailureEvent): """..."""`'
        )
    for requested in requests:
        if requested is not completed and requested is not failed:
            continue
        yield f"{name_of(requested)} both starts and ends it, so it would start itself forever: end with another event"


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _is_event(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, DomainEvent) and value not in (DomainEvent, FailureEvent)


def _problems_of_init(orchestrator: AnyOrchestrator) -> Iterator[Problem]:
    init: Any = orchestrator.__init__
    if not inspect.isfunction(init):
        return
    needed = [
        parameter.name
        for parameter in list(inspect.signature(init).parameters.values())[1:]
        if parameter.default is Parameter.empty
        and parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    ]
    if needed:
        yield Source.of(init).problem(
            f'{orchestrator.__name__}.__init__ takes "{needed[0]}", but the engine creates an instance for each saga '
            "without arguments: read the value from the event, or with a @query"
        )


def _problems_of_handle(
    orchestrator: AnyOrchestrator, events: tuple[tuple[type, ...], type] | None
) -> Iterator[Problem]:
    """Find what is wrong with `handle`. Its types are checked only if the events that they must be are known."""
    name = orchestrator.__name__
    form = _form(orchestrator, events)
    handle: Any = inspect.getattr_static(orchestrator, "handle")
    if handle is inspect.getattr_static(Orchestrator, "handle"):
        yield Source.of(orchestrator).problem(f"{name} has no handle: write `{form}`")
        return
    if not inspect.isfunction(handle):
        yield Source.of(orchestrator).problem(f"{name}.handle is not a method: write `{form}`")
        return
    say = Source.of(handle).problem
    if not inspect.iscoroutinefunction(handle):
        yield say(f"{name}.handle is not asynchronous: write `{form}`")
    parameters = list(inspect.signature(handle).parameters.values())
    if len(parameters) != 3 or any(
        parameter.kind not in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) for parameter in parameters
    ):
        yield say(f"{name}.handle takes parameters other than the event and the saga: write `{form}`")
        return
    if events is None:
        return
    try:
        hints = get_type_hints(handle)
    except (NameError, TypeError, AttributeError, SyntaxError) as fault:
        yield say(
            f"an annotation of {name}.handle cannot be resolved, {fault}: "
            "import it at the top of the module, outside of TYPE_CHECKING"
        )
        return
    requests, completed = events
    expected = {parameters[1].name: requests, parameters[2].name: (Saga,), "return": (completed,)}
    for name_of_hint, wanted in expected.items():
        if isinstance(hints.get(name_of_hint), TypeVar) and "handle" not in vars(orchestrator):
            continue  # declared by a generic base, and filled in by this class
        if name_of_hint not in hints or set(_alternatives(hints[name_of_hint])) != set(wanted):
            what = "what it returns" if name_of_hint == "return" else name_of_hint
            actual = hints.get(name_of_hint, Parameter.empty)
            shown = "has no type" if actual is Parameter.empty else f"is {_named(actual)}, not {_named(wanted)}"
            yield say(f"{name}.handle: {what} {shown}: write `{form}`")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _named(types: Any) -> str:
    members: tuple[Any, ...] = types if isinstance(types, tuple) else _alternatives(types)  # pyright: ignore[reportUnknownVariableType]
    return " | ".join(map(name_of, members))


def _problems_of_keys(orchestrator: AnyOrchestrator, requests: tuple[type, ...] | None) -> Iterator[Problem]:
    """Find what is wrong with `locks` and `ordering_key`, which run as soon as an event arrives."""
    event = f"{orchestrator.__name__}Requested" if requests is None else _named(requests)
    for method, returned in (("locks", "Sequence[str]"), ("ordering_key", "str | None")):
        declared: Any = inspect.getattr_static(orchestrator, method)
        if declared is inspect.getattr_static(Orchestrator, method):
            continue
        name = f"{orchestrator.__name__}.{method}"
        form = f"write `def {method}(self, event: {event}) -> {returned}`"
        if not inspect.isfunction(declared):
            yield Source.of(orchestrator).problem(f"{name} is not a method: {form}")
            continue
        say = Source.of(declared).problem
        yield from (say(f"{name} {fault}: {form}") for fault in _faults_of_keys(declared, requests or ()))


def _faults_of_keys(method: Any, requests: tuple[type, ...]) -> Iterator[str]:
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        yield "is asynchronous, but keys must come from the event alone"
    elif inspect.isgeneratorfunction(method):
        yield "yields, but must return"
    parameters = list(inspect.signature(method).parameters.values())
    if len(parameters) != 2 or any(
        parameter.kind not in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) for parameter in parameters
    ):
        yield "takes parameters other than the event"
        return
    try:
        hints = get_type_hints(method)
    except (NameError, TypeError, AttributeError, SyntaxError):
        return  # these methods need no types; the type checker reports wrong ones
    taken = _alternatives(hints.get(parameters[1].name, Any))
    for requested in requests:
        if all(isinstance(hint, type) and not issubclass(requested, hint) for hint in taken):
            yield f"takes {_named(taken)}, but {name_of(requested)} starts it"
    if method.__name__ == "locks" and hints.get("return") is str:
        yield "returns one text, each letter of which would be a key"


def _form(orchestrator: AnyOrchestrator, events: tuple[tuple[type, ...], type] | None) -> str:
    name = orchestrator.__name__
    requested, completed = f"{name}Requested", f"{name}Completed"
    if events is not None:
        requested, completed = _named(events[0]), name_of(events[1])
    return f"async def handle(self, event: {requested}, saga: Saga) -> {completed}"
