"""Decides whether two types share JSON, that is, whether the JSON of a value of one can also be read as the other.

A union of such types cannot be read back, because JSON does not say which of the two was written. Strict reading and
pydantic's smart unions are assumed, because that is how the engine reads. This module depends only on pydantic.
"""

import dataclasses
import json
from collections import deque
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePath
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints
from uuid import UUID

from pydantic import BaseModel, Field, JsonValue, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from typing_extensions import is_typeddict

TEXTUAL: tuple[type, ...] = (UUID, date, datetime, time, timedelta, Decimal, PurePath, IPv4Address, IPv6Address)
"""Standard types that are written as text and read back from it."""
_NATIVE = (str, int, bool, type(None))
"""Types whose values JSON itself distinguishes."""
_READ_AS_BOTH = ({Decimal, date}, {Decimal, datetime}, {time, timedelta})
"""Textual types that share texts, for example `10:00:00`, which is a time and a duration."""


class Overlap(IntEnum):
    """How much JSON two types share."""

    NONE = 0
    POSSIBLE = 1
    """The types alone do not show it, or it depends on the value."""
    CERTAIN = 2


@dataclass(frozen=True, slots=True)
class Shape:
    """The JSON object that a class with named fields is written as."""

    fields: Mapping[str, Any]
    required: AbstractSet[str]
    """Fields without which the object cannot be read."""
    always: AbstractSet[str]
    """Fields that are always written."""
    forbids_extra: bool


def bare(hint: Any) -> Any:
    """Return a type without annotations, NewType names and aliases."""
    while hint is not JsonValue:
        if get_origin(hint) is Annotated:
            hint = get_args(hint)[0]
        elif hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        elif hasattr(hint, "__value__") and not get_args(hint):
            hint = hint.__value__
        else:
            return type(None) if hint is None else hint
    return hint


def is_union(hint: Any) -> bool:
    """Return whether a bare type is a union."""
    return get_origin(hint) in (Union, UnionType)


def discriminator_of(hint: Any) -> str | None:
    """Return the discriminator field of an annotated union, which pydantic has checked, or None."""
    annotations = getattr(hint, "__metadata__", ())
    candidates = [annotation.discriminator for annotation in annotations if isinstance(annotation, FieldInfo)]
    return next((candidate for candidate in candidates if isinstance(candidate, str)), None)


def hint_of_field(info: FieldInfo) -> Any:
    """Return a model's field type with the author's annotations, which pydantic stores separately."""
    annotations = [*info.metadata]
    if info.discriminator is not None:
        annotations.append(Field(discriminator=info.discriminator))
    hint: Any = info.annotation
    for annotation in annotations:
        hint = Annotated[hint, annotation]
    return hint


def shape_of(hint: Any) -> Shape | None:
    """Return the named fields of a model, a dataclass or a typed dictionary, or None for any other type."""
    model: Any = hint
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        fields = {name: hint_of_field(info) for name, info in hint.model_fields.items()}
        required = {name for name, info in hint.model_fields.items() if info.is_required()}
        return Shape(fields, required, set(fields), hint.model_config.get("extra") == "forbid")
    try:
        if is_typeddict(model):
            keys: frozenset[str] = model.__required_keys__
            return Shape(get_type_hints(model, include_extras=True), keys, keys, forbids_extra=True)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            hints = get_type_hints(model, include_extras=True)
            own = {field.name: hints[field.name] for field in dataclasses.fields(hint)}
            missing = dataclasses.MISSING
            needed = {
                field.name
                for field in dataclasses.fields(hint)
                if field.default is missing and field.default_factory is missing
            }
            return Shape(own, needed, set(own), forbids_extra=True)
    except (NameError, TypeError):
        return None
    return None


def may_be_key(hint: Any) -> bool:
    """Return whether keys of this type are read back from text unchanged."""
    key = bare(hint)
    if get_origin(key) is Literal:
        return all(isinstance(value, str) for value in get_args(key))
    if is_union(key):
        return all(map(_is_text, get_args(key)))
    if not isinstance(get_origin(key) or key, type):
        return False
    if isinstance(key, type) and issubclass(key, Enum):
        return issubclass(key, int) or all(isinstance(member.value, str) for member in key)
    container = cast("type[Any]", get_origin(key) or key)
    return not issubclass(container, (type(None), tuple, frozenset, BaseModel)) and shape_of(key) is None


def _is_text(hint: Any) -> bool:
    plain = bare(hint)
    return plain is str or (get_origin(plain) is Literal and all(type(value) is str for value in get_args(plain)))


def clash(left: Any, right: Any) -> Overlap:
    """Return whether a value of one member of a union may be read back as a value of another."""
    left, right = bare(left), bare(right)
    if left == right:
        return Overlap.NONE
    for first, second in ((left, right), (right, left)):
        if is_union(first):
            return max(clash(member, second) for member in get_args(first))
    if _is_native(left) and _is_native(right):
        return Overlap.NONE
    for first, second in ((left, right), (right, left)):
        if first is JsonValue:
            return _clash_with_json(second)
        if first in (float, Decimal) and (second in (int, float, Decimal) or _is_native(second)):
            # A number is read as the type that fits it exactly.
            return Overlap.CERTAIN if first is Decimal and second is str else Overlap.NONE
    first, second = _elements(left), _elements(right)
    if first is not None and second is not None and _container(left) is _container(right):
        return _clash_of_elements(first, second)
    if _container(left) is dict and _container(right) is dict:
        return _clash_of_dictionaries(get_args(left), get_args(right))
    found = _shared(left, right, frozenset())
    same_class = (is_typeddict(left) or _container(left) is dict) and (is_typeddict(right) or _container(right) is dict)
    return min(found, Overlap.POSSIBLE) if same_class else found


def _clash_with_json(other: Any) -> Overlap:
    if _is_native(other):
        return Overlap.NONE
    if other is float:
        return Overlap.POSSIBLE
    are_plain = all(bare(argument) in (str, JsonValue) for argument in get_args(other))
    is_plain = are_plain and _container(other) in (list, dict)
    return Overlap.NONE if is_plain else Overlap.CERTAIN


def _clash_of_elements(left: "_Elements", right: "_Elements") -> Overlap:
    pairs = _pairs(left, right)
    if pairs is None or any(_shared(first, second, frozenset()) is Overlap.NONE for first, second in pairs):
        return Overlap.NONE
    return max((clash(first, second) for first, second in pairs), default=Overlap.NONE)


def _clash_of_dictionaries(left: tuple[Any, ...], right: tuple[Any, ...]) -> Overlap:
    if len(left) != 2 or len(right) != 2:
        return Overlap.POSSIBLE
    keys = (bare(left[0]), bare(right[0]))
    if keys[0] != keys[1]:
        return Overlap.CERTAIN if str in keys else Overlap.POSSIBLE
    return clash(left[1], right[1])


def _shared(left: Any, right: Any, seen: frozenset[tuple[Any, Any]]) -> Overlap:
    """How much JSON two types share, even if reading it gives other values."""
    left, right = bare(left), bare(right)
    for first, second in ((left, right), (right, left)):
        if is_union(first):
            return max(_shared(member, second, seen) for member in get_args(first))
    if JsonValue in (left, right) or left == right:
        return Overlap.CERTAIN
    if (id(left), id(right)) in seen:
        return Overlap.CERTAIN  # a type that contains itself: its other fields decide
    seen |= {(id(left), id(right))}
    finite = _values(left), _values(right)
    if finite[0] is not None and finite[1] is not None:
        return Overlap.CERTAIN if finite[0] & finite[1] else Overlap.NONE
    if finite[0] is not None or finite[1] is not None:
        values, wide = (finite[0], right) if finite[0] is not None else (finite[1], left)
        return _shared_with_values(values or frozenset(), wide)
    if _is_scalar(left) and _is_scalar(right):
        return _shared_scalars(left, right)
    elements = _elements(left), _elements(right)
    if elements[0] is not None and elements[1] is not None:
        if not elements[0].is_fixed and not elements[1].is_fixed:
            return Overlap.CERTAIN  # both can be an empty array
        pairs = _pairs(elements[0], elements[1])
        return Overlap.NONE if pairs is None else _least(pairs, seen)
    shapes = shape_of(left), shape_of(right)
    if shapes[0] is not None and shapes[1] is not None:
        return max(_read_as(shapes[0], shapes[1], seen), _read_as(shapes[1], shapes[0], seen))
    for shape, mapping in ((shapes[0], right), (shapes[1], left)):
        if shape is not None and _container(mapping) is dict:
            arguments = get_args(mapping)
            if len(arguments) != 2 or bare(arguments[0]) is not str:
                return Overlap.POSSIBLE
            return _least([(arguments[1], shape.fields[name]) for name in shape.always], seen)
    kinds = _kind(left), _kind(right)
    return Overlap.POSSIBLE if None in kinds or kinds[0] == kinds[1] else Overlap.NONE


def _least(pairs: Sequence[tuple[Any, Any]], seen: frozenset[tuple[Any, Any]]) -> Overlap:
    return min((_shared(first, second, seen) for first, second in pairs), default=Overlap.CERTAIN)


def _read_as(written: Shape, read: Shape, seen: frozenset[tuple[Any, Any]]) -> Overlap:
    if read.required - set(written.fields):
        return Overlap.NONE
    surplus = written.always - set(read.fields)
    if surplus and read.forbids_extra:
        return Overlap.NONE
    common = [(written.fields[name], read.fields[name]) for name in written.fields if name in read.fields]
    found = _least([pair for pair in common if pair[0] is not pair[1]], seen)
    return min(found, Overlap.POSSIBLE) if surplus else found


def _shared_scalars(left: Any, right: Any) -> Overlap:
    types: set[type] = {left, right}
    if types <= {int, float, Decimal}:
        return Overlap.POSSIBLE
    if str in types or any(issubclass(member, PurePath) for member in types):
        wide = {str, PurePath, *TEXTUAL}
        are_textual = all(any(issubclass(member, kind) for kind in wide) for member in types)
        return Overlap.CERTAIN if are_textual else Overlap.NONE
    return Overlap.CERTAIN if types in _READ_AS_BOTH else Overlap.NONE


def _shared_with_values(values: frozenset[str], wide: Any) -> Overlap:
    """Whether any of some JSON scalars can be read as a type."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(wide)
    except Exception:  # an author's type may raise anything here; another check reports it
        return Overlap.POSSIBLE
    for value in values:
        try:
            adapter.validate_json(value, strict=True)
        except ValidationError:
            continue
        except Exception:  # an error in an author's validator
            return Overlap.POSSIBLE
        return Overlap.CERTAIN
    return Overlap.NONE


def _values(hint: Any) -> frozenset[str] | None:
    """The JSON of each value of an enumeration or a literal, or None for any other type."""
    members: list[Any] = []
    if get_origin(hint) is Literal:
        members = [value.value if isinstance(value, Enum) else value for value in get_args(hint)]
    elif isinstance(hint, type) and issubclass(hint, Enum):
        members = [member.value for member in hint]
    else:
        return None
    return frozenset(json.dumps(value) for value in members if isinstance(value, str | int | float | None))


def _is_native(hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return not any(isinstance(value, Enum) for value in get_args(hint))
    return hint in _NATIVE


def _is_scalar(hint: Any) -> bool:
    return isinstance(hint, type) and (hint in _NATIVE or hint is float or issubclass(hint, TEXTUAL))


@dataclass(frozen=True, slots=True)
class _Elements:
    """The types of an array's elements: one for each, or one for any number of elements."""

    types: tuple[Any, ...]
    is_fixed: bool


def _elements(hint: Any) -> _Elements | None:
    arguments = get_args(hint)
    container: type[Any] | None = _container(hint)
    if container is None or issubclass(container, str | bytes | Mapping):
        return None
    if hasattr(container, "_fields"):
        hints = get_type_hints(container, include_extras=True)
        return _Elements(tuple(hints.values()), is_fixed=True)
    if issubclass(container, tuple) and arguments and arguments[-1] is not Ellipsis:
        return _Elements(arguments, is_fixed=True)
    is_sequence = issubclass(container, (list, tuple, AbstractSet, deque))
    if is_sequence or container is cast(Any, Sequence):
        return _Elements((arguments[0] if arguments else Any,), is_fixed=False)
    return None


def _pairs(left: _Elements, right: _Elements) -> list[tuple[Any, Any]] | None:
    """The types of the elements at the same positions, or None if the lengths differ."""
    if left.is_fixed and right.is_fixed:
        return list(zip(left.types, right.types, strict=True)) if len(left.types) == len(right.types) else None
    if left.is_fixed or right.is_fixed:
        fixed, any_number = (left, right) if left.is_fixed else (right, left)
        return [(member, any_number.types[0]) for member in fixed.types]
    return [(left.types[0], right.types[0])]


def _container(hint: Any) -> type[Any] | None:
    origin = get_origin(hint) or hint
    return origin if isinstance(origin, type) else None


def _kind(hint: Any) -> str | None:
    """Whether a type is written as a scalar, an array or an object, or None if that is unknown."""
    if _is_scalar(hint):
        return "scalar"
    if _elements(hint) is not None:
        return "array"
    return "object" if shape_of(hint) is not None or _container(hint) in (dict, Mapping) else None
