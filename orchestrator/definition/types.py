"""Checks of the types that are stored as JSON: a value must be equal after it is read back, in any process.

pydantic rejects some types itself; `problem_of_schema` turns its error into a sentence. It accepts other types but
changes their values: a tuple in `Any` is read back as a list, and a set is written in another order in each process.
This module rejects those.
"""

import dataclasses
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum, StrEnum
from itertools import combinations
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel, JsonValue, SecretBytes, SecretStr, TypeAdapter
from typing_extensions import is_typeddict

from orchestrator.values.overlap import (
    TEXTUAL,
    Overlap,
    bare,
    clash,
    discriminator_of,
    hint_of_field,
    is_union,
    may_be_key,
    shape_of,
)


class Use(StrEnum):
    """What a value of the type is used for."""

    FIELD = "field"
    """A field of an event. Nothing in it may change later, and its content is compared when an event is sent again."""
    ARGUMENT = "argument"
    """An argument of an operation. It is compared with the recorded one at each attempt."""
    RESULT = "result"
    """A result of an operation. It is recorded once."""


_ONCE = (Iterable, Iterator, Generator)


def name_of(hint: Any) -> str:
    """Return a type as its author would write it."""
    if isinstance(hint, type) and not get_args(hint):
        return "None" if hint is type(None) else hint.__name__
    name: str = getattr(hint, "__name__", "") if not get_args(hint) else ""
    return name or str(hint).replace("typing.", "").replace("NoneType", "None")


def faults_of_type(hint: Any, use: Use) -> list[str]:
    """Return why values of this type would not be read back unchanged. Contracts of events are not followed."""
    return list(dict.fromkeys(_faults(hint, use, set())))


def models_in(hint: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models that a type directly consists of, without those inside of them."""
    if _is_model(hint):
        yield hint
    for argument in get_args(hint):
        yield from models_in(argument)


def problem_of_schema(hint: Any) -> str | None:
    """Return pydantic's reason why it cannot write the type as JSON, or None."""
    try:
        TypeAdapter[Any](hint).json_schema(mode="serialization")
    except Exception as fault:  # an author's type may raise anything, and all faults are reported together
        return (str(fault).splitlines() or [type(fault).__name__])[0].removesuffix(".").partition(". Set `")[0]
    return None


def _faults(hint: Any, use: Use, seen: set[Any]) -> Iterator[str]:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is JsonValue:
        return
    if origin is Annotated and discriminator_of(hint) is not None and is_union(bare(hint)):
        for member in get_args(bare(hint)):
            yield from _faults(member, use, seen)
    elif origin is Annotated:
        yield from _faults(arguments[0], use, seen)
    elif hasattr(hint, "__supertype__"):  # a NewType
        yield from _faults(hint.__supertype__, use, seen)
    elif origin in (Union, UnionType):
        yield from _faults_of_union(arguments)
        for member in arguments:
            yield from _faults(member, use, seen)
    elif isinstance(origin, type):
        yield from _faults_of_container(hint, origin, arguments, use)
        for member in arguments:
            if member is not Ellipsis:
                yield from _faults(member, use, seen)
    elif hint is Any or hint is object:
        yield f"{name_of(hint)} is read back as plain JSON, a tuple as a list: write the type, or pydantic's JsonValue"
    elif isinstance(hint, type) and hint not in seen:
        seen.add(hint)
        yield from _faults_of_class(hint, use, seen)


def _faults_of_class(hint: type[Any], use: Use, seen: set[Any]) -> Iterator[str]:
    if issubclass(hint, (bytes, bytearray, memoryview)):
        yield f"{name_of(hint)} can be stored only if it happens to be UTF-8: use a str, for example in base64"
    elif issubclass(hint, (SecretStr, SecretBytes)):
        yield f"{name_of(hint)} is written as asterisks, so the secret is lost: use a str, or a reference to the secret"
    elif getattr(hint, "__table__", None) is not None:
        yield f"{name_of(hint)} is a database table: use a Contract with the fields that are needed"
    elif issubclass(hint, Enum):
        changed = [member.name for member in hint if not isinstance(member.value, str | int)]
        if changed:
            yield f"{name_of(hint)}.{changed[0]} has a value that JSON changes: give its members str or int values"
    elif issubclass(hint, BaseModel):
        # An event's contracts are checked separately, so that a problem refers to their own line.
        if use is not Use.FIELD:
            for name, info in hint.model_fields.items():
                for fault in _faults(hint_of_field(info), use, seen):
                    yield f"{hint.__name__}.{name}: {fault}"
    elif dataclasses.is_dataclass(hint) or is_typeddict(hint) or hasattr(hint, "_fields"):
        try:
            hints = get_type_hints(hint, include_extras=True)
        except (NameError, TypeError):
            return  # pydantic's own error is clearer
        for member in hints.values():
            yield from _faults(member, use, seen)
    elif issubclass(hint, str):
        return
    elif issubclass(hint, (list, tuple, dict, set, frozenset)) or hint in (Sequence, Mapping, AbstractSet):
        yield f"{name_of(hint)} does not say what it contains: write `{name_of(hint)}[...]`"
        yield from _faults_of_container(hint, cast(Any, hint), (), use)
    elif hint in _ONCE:
        yield from _faults_of_container(hint, hint, (), use)


def _faults_of_container(hint: Any, origin: type[Any], arguments: tuple[Any, ...], use: Use) -> Iterator[str]:
    shown = name_of(hint)
    if origin in _ONCE:
        yield f"{shown} can be read only once: use a tuple"
    elif issubclass(origin, AbstractSet):
        if use is not Use.RESULT:
            yield f"{shown} is written in another order by each process, so a repeat would differ: use a sorted tuple"
    elif issubclass(origin, Mapping):
        if arguments and not may_be_key(arguments[0]):
            yield f"{shown} has keys that JSON turns into text: use a tuple of pairs"
        if use is Use.FIELD:
            yield f"{shown} can be changed after it was checked: use a Contract, or a tuple of pairs"
    elif use is Use.FIELD and not issubclass(origin, tuple) and issubclass(origin, Sequence):
        member = name_of(arguments[0]) if arguments else "..."
        yield f"{shown} can be changed after it was checked: use `tuple[{member}, ...]`"


def _faults_of_union(members: tuple[Any, ...]) -> Iterator[str]:
    shown = " | ".join(map(name_of, members))
    plain = list(map(bare, members))
    textual = [member for member in plain if isinstance(member, type) and issubclass(member, TEXTUAL)]
    if str in plain and textual:
        yield (
            f"{shown} is ambiguous, because a str that looks like a {name_of(textual[0])} is read back as one: use one "
            "of the two"
        )
        return
    for first, second in combinations(members, 2):
        if clash(first, second) is not Overlap.CERTAIN:
            continue
        names = name_of(first), name_of(second)
        said = (
            f"{shown} is ambiguous, because {names[0]} and {names[1]} can have the same JSON, and one would be read "
            "back as the other"
        )
        if all(shape_of(bare(member)) is not None for member in (first, second)):
            yield (
                f'{said}: give each a field that distinguishes them, as in `kind: Literal["..."]`, and write '
                f'`Annotated[{names[0]} | {names[1]}, Field(discriminator="kind")]`'
            )
        else:
            yield f"{said}: use one of the two, or a Contract for each, in a discriminated union"
        return


def _is_model(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, BaseModel)
