"""Checks of one event: its name, its version, its fields, and the values inside them."""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from orchestrator.definition.source import Source
from orchestrator.definition.types import Use, faults_of_type, models_in, name_of, problem_of_schema
from orchestrator.errors import Problem
from orchestrator.event import Contract, DomainEvent, FailureEvent, upcasters_of
from orchestrator.protocol.messages.envelope import TYPE_LIMIT, VERSION_LIMIT, UnreadableEvent, canonical
from orchestrator.protocol.messages.unwrapping import parse
from orchestrator.values.overlap import hint_of_field

_TYPE = re.compile(r"[A-Z][A-Z0-9_]*")
_CONFIGURATION: tuple[tuple[str, Any], ...] = (
    ("strict", True),
    ("extra", "forbid"),
    ("frozen", True),
    ("allow_inf_nan", False),
)


def problems_of_event(event: type[DomainEvent]) -> Iterator[Problem]:
    """Find every fault of one event, and of the contracts inside it."""
    problems = [*_problems_of_naming(event), *_problems_of_contract(event, set())]
    yield from problems
    if not problems:
        yield from _problems_of_example(event)


def _problems_of_naming(event: type[DomainEvent]) -> Iterator[Problem]:
    say = Source.of(event).problem
    name = event.__name__
    if not _TYPE.fullmatch(event.type_name()):
        yield say(f"{name} is not an event type: name the class in CamelCase with plain letters and digits")
    if len(event.type_name()) > TYPE_LIMIT:
        yield say(f"the event type of {name} has more than {TYPE_LIMIT} characters: shorten the name")
    version: Any = event.version
    if "version" in event.model_fields:
        yield say(f"{name}.version is declared as a field: write `version = 2`, without an annotation")
    elif type(version) is not int or not 1 <= version <= VERSION_LIMIT:
        yield say(f"{name}.version is {version!r}: it counts from 1, as in `version = 2`")
    else:
        yield from _problems_of_upcasters(event)
    if issubclass(event, FailureEvent):
        own = [
            field
            for field, info in event.model_fields.items()
            if field not in FailureEvent.model_fields or info.annotation != FailureEvent.model_fields[field].annotation
        ]
        if own:
            yield say(
                f'{name} adds the field "{own[0]}" to FailureEvent: the engine fills it in, and a subclass only names '
                f'it, as in `class {name}(FailureEvent): """..."""`'
            )


def _problems_of_upcasters(event: type[DomainEvent]) -> Iterator[Problem]:
    say = Source.of(event).problem
    name, version = event.__name__, event.version
    upcasters = upcasters_of(event)
    for value in vars(event).values():
        if callable(value) and hasattr(value, "upcasts_from"):
            yield say(f"{name}.{value.__name__} is an upcaster that takes an instance: write @staticmethod above it")
    for old in sorted(upcasters):
        if type(old) is not int or not 1 <= old < version:
            yield say(
                f"{name} has an upcaster from version {old!r}, but is version {version}: an upcaster must begin with "
                f"an older version. If the fields have changed, write `version = {version + 1}`"
            )
    if upcasters:
        for old in range(min(upcasters), version):
            if old not in upcasters:
                yield say(f"{name} has no upcaster from version {old} to {old + 1}: write one, marked @upcaster({old})")


def _problems_of_contract(contract: type[Contract], seen: set[type[BaseModel]]) -> Iterator[Problem]:
    if contract in seen:
        return
    seen.add(contract)
    say = Source.of(contract).problem
    name = contract.__name__
    for option, needed in _CONFIGURATION:
        if contract.model_config.get(option) != needed:
            yield say(f"{name} sets {option} to {contract.model_config.get(option)!r} in its model_config: remove it")
    if contract.__private_attributes__:
        private = next(iter(contract.__private_attributes__))
        yield say(f"{name}.{private} is not sent, because it is private: name it without `_`")
    if contract.model_computed_fields:
        computed = next(iter(contract.model_computed_fields))
        yield say(f"{name}.{computed} is a computed field, which a reader rejects as an extra field: use a property")
    try:
        contract.model_rebuild()
    except (PydanticUndefinedAnnotation, PydanticUserError, NameError) as fault:
        yield say(
            f"an annotation of {name} cannot be resolved, {str(fault).splitlines()[0]}: "
            "import it at the top of the module, outside of TYPE_CHECKING"
        )
        return
    inherited = set(FailureEvent.model_fields) if issubclass(contract, FailureEvent) else set[str]()
    for field, info in contract.model_fields.items():
        if field in inherited:
            continue
        if hasattr(DomainEvent, field) and field != "version":
            yield say(f"{name}.{field} hides an attribute that every event has: rename the field")
        elif field.startswith("model_"):
            yield say(f"{name}.{field} is in pydantic's namespace: rename it to something without `model_`")
        if info.alias or info.validation_alias or info.serialization_alias:
            yield say(f"{name}.{field} has an alias, but a field is sent under its own name: remove the alias")
        if info.exclude:
            yield say(f"{name}.{field} is excluded, so it would not be sent: remove `exclude`")
        faults = faults_of_type(hint_of_field(info), Use.FIELD)
        yield from (say(f"{name}.{field}: {fault}") for fault in faults)
        if not faults and (refused := problem_of_schema(info.annotation)):
            yield say(f"{name}.{field}: {name_of(info.annotation)} cannot be stored as JSON ({refused})")
        for model in models_in(info.annotation):
            if issubclass(model, Contract):
                yield from _problems_of_contract(model, seen)
            else:
                form = f"class {model.__name__}(Contract)"
                yield say(f"{name}.{field}: {model.__name__} is not a Contract: write `{form}`")


def _problems_of_example(event: type[DomainEvent]) -> Iterator[Problem]:
    say = Source.of(event).problem
    name = event.__name__
    try:
        example: object = event.example()
    except Exception as fault:  # the author's code may raise anything, and all faults are reported together
        said = (str(fault).splitlines() or [""])[0]
        yield say(f"{name}.example() raises {type(fault).__name__}: {said}")
        return
    if example is None:
        return
    if type(example) is not event:
        yield say(f"{name}.example() returns {type(example).__name__}: it must return a {name}, or None")
        return
    try:
        again = parse(canonical(example.model_dump(mode="json", warnings=False)), event)
    except (UnreadableEvent, ValueError, TypeError) as fault:
        yield say(f"{name}.example() cannot be read back: {fault}")
        return
    if again != example:
        yield say(f"{name}.example() comes back from JSON as another event: {again!r}")
