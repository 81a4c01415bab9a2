"""Decides whether two types share JSON: whether what a value of one is written as can also be read as the other.

A union of such types cannot be read back: JSON does not say which of the two was written. Strict reading and pydantic's
smart unions are assumed, because that is how the engine reads. Knows pydantic alone.
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
"""Types whose values JSON itself tells apart."""
_READ_AS_BOTH = ({Decimal, date}, {Decimal, datetime}, {time, timedelta})
"""Textual types of which a value of one may read like a value of the other: `10:00:00` is a time and a duration."""


class Overlap(IntEnum):
    """How much JSON two types share."""

    NONE = 0
    POSSIBLE = 1
    """Not known from the types alone, or it depends on the value."""
    CERTAIN = 2


@dataclass(frozen=True, slots=True)
class Shape:
    """What a class with named fields is written as."""

    fields: Mapping[str, Any]
    required: AbstractSet[str]
    """Fields without which it cannot be read."""
    always: AbstractSet[str]
    """Fields that are always written."""
    forbids_extra: bool


def bare(hint: Any) -> Any:
    """A type without its annotations, new-type names and aliases."""
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
    """Whether a bare type is a union."""
    return get_origin(hint) in (Union, UnionType)


def discriminator_of(hint: Any) -> str | None:
    """The field that tells the members of an annotated union apart, which pydantic has checked; None without one."""
    found = [one.discriminator for one in getattr(hint, "__metadata__", ()) if isinstance(one, FieldInfo)]
    return next((one for one in found if isinstance(one, str)), None)


def hint_of_field(info: FieldInfo) -> Any:
    """A model's field as its author annotated it: pydantic keeps the annotations apart from the type."""
    annotations = [*info.metadata]
    if info.discriminator is not None:
        annotations.append(Field(discriminator=info.discriminator))
    hint: Any = info.annotation
    for one in annotations:
        hint = Annotated[hint, one]
    return hint


def shape_of(hint: Any) -> Shape | None:
    """The named fields of a model, a dataclass or a typed dictionary; None of anything else."""
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
            own = {one.name: hints[one.name] for one in dataclasses.fields(hint)}
            missing = dataclasses.MISSING
            needed = {
                one.name
                for one in dataclasses.fields(hint)
                if one.default is missing and one.default_factory is missing
            }
            return Shape(own, needed, set(own), forbids_extra=True)
    except (NameError, TypeError):
        return None
    return None


def may_be_key(hint: Any) -> bool:
    """Whether a dictionary's keys of this type are read back from text as they were."""
    key = bare(hint)
    if get_origin(key) is Literal:
        return all(isinstance(one, str) for one in get_args(key))
    if is_union(key):
        return all(_is_text(one) for one in get_args(key))
    if not isinstance(get_origin(key) or key, type):
        return False
    if isinstance(key, type) and issubclass(key, Enum):
        return issubclass(key, int) or all(isinstance(one.value, str) for one in key)
    container = cast("type[Any]", get_origin(key) or key)
    return not issubclass(container, (type(None), tuple, frozenset, BaseModel)) and shape_of(key) is None


def _is_text(hint: Any) -> bool:
    plain = bare(hint)
    return plain is str or (get_origin(plain) is Literal and all(type(one) is str for one in get_args(plain)))


def clash(one: Any, other: Any) -> Overlap:
    """Whether a value of one member of a union may come back as a value of the other."""
    one, other = bare(one), bare(other)
    if one == other:
        return Overlap.NONE
    for first, second in ((one, other), (other, one)):
        if is_union(first):
            return max(clash(member, second) for member in get_args(first))
    if _is_native(one) and _is_native(other):
        return Overlap.NONE
    for first, second in ((one, other), (other, one)):
        if first is JsonValue:
            return _clash_with_json(second)
        if first in (float, Decimal) and (second in (int, float, Decimal) or _is_native(second)):
            # A number is read as the type that fits it exactly.
            return Overlap.CERTAIN if first is Decimal and second is str else Overlap.NONE
    first, second = _elements(one), _elements(other)
    if first is not None and second is not None and _container(one) is _container(other):
        return _clash_of_elements(first, second)
    if _container(one) is dict and _container(other) is dict:
        return _clash_of_dictionaries(get_args(one), get_args(other))
    found = _shared(one, other, frozenset())
    same_class = (is_typeddict(one) or _container(one) is dict) and (is_typeddict(other) or _container(other) is dict)
    return min(found, Overlap.POSSIBLE) if same_class else found


def _clash_with_json(other: Any) -> Overlap:
    if _is_native(other):
        return Overlap.NONE
    if other is float:
        return Overlap.POSSIBLE
    is_plain = _container(other) in (list, dict) and all(bare(one) in (str, JsonValue) for one in get_args(other))
    return Overlap.NONE if is_plain else Overlap.CERTAIN


def _clash_of_elements(one: "_Elements", other: "_Elements") -> Overlap:
    pairs = _pairs(one, other)
    if pairs is None or any(_shared(first, second, frozenset()) is Overlap.NONE for first, second in pairs):
        return Overlap.NONE
    return max((clash(first, second) for first, second in pairs), default=Overlap.NONE)


def _clash_of_dictionaries(one: tuple[Any, ...], other: tuple[Any, ...]) -> Overlap:
    if len(one) != 2 or len(other) != 2:
        return Overlap.POSSIBLE
    keys = (bare(one[0]), bare(other[0]))
    if keys[0] != keys[1]:
        return Overlap.CERTAIN if str in keys else Overlap.POSSIBLE
    return clash(one[1], other[1])


def _shared(one: Any, other: Any, seen: frozenset[tuple[Any, Any]]) -> Overlap:
    """How much JSON two types share, whatever values it is read as."""
    one, other = bare(one), bare(other)
    for first, second in ((one, other), (other, one)):
        if is_union(first):
            return max(_shared(member, second, seen) for member in get_args(first))
    if JsonValue in (one, other) or one == other:
        return Overlap.CERTAIN
    if (id(one), id(other)) in seen:
        return Overlap.CERTAIN  # a type inside of itself: as much as its other fields share
    seen |= {(id(one), id(other))}
    finite = _values(one), _values(other)
    if finite[0] is not None and finite[1] is not None:
        return Overlap.CERTAIN if finite[0] & finite[1] else Overlap.NONE
    if finite[0] is not None or finite[1] is not None:
        values, wide = (finite[0], other) if finite[0] is not None else (finite[1], one)
        return _shared_with_values(values or frozenset(), wide)
    if _is_scalar(one) and _is_scalar(other):
        return _shared_scalars(one, other)
    elements = _elements(one), _elements(other)
    if elements[0] is not None and elements[1] is not None:
        if not elements[0].is_fixed and not elements[1].is_fixed:
            return Overlap.CERTAIN  # an empty array is written alike
        pairs = _pairs(elements[0], elements[1])
        return Overlap.NONE if pairs is None else _least(pairs, seen)
    shapes = shape_of(one), shape_of(other)
    if shapes[0] is not None and shapes[1] is not None:
        return max(_read_as(shapes[0], shapes[1], seen), _read_as(shapes[1], shapes[0], seen))
    for shape, mapping in ((shapes[0], other), (shapes[1], one)):
        if shape is not None and _container(mapping) is dict:
            arguments = get_args(mapping)
            if len(arguments) != 2 or bare(arguments[0]) is not str:
                return Overlap.POSSIBLE
            return _least([(arguments[1], shape.fields[name]) for name in shape.always], seen)
    kinds = _kind(one), _kind(other)
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


def _shared_scalars(one: Any, other: Any) -> Overlap:
    types: set[type] = {one, other}
    if types <= {int, float, Decimal}:
        return Overlap.POSSIBLE
    if str in types or any(issubclass(member, PurePath) for member in types):
        wide = {str, PurePath, *TEXTUAL}
        return Overlap.CERTAIN if all(any(issubclass(one, kind) for kind in wide) for one in types) else Overlap.NONE
    return Overlap.CERTAIN if types in _READ_AS_BOTH else Overlap.NONE


def _shared_with_values(values: frozenset[str], wide: Any) -> Overlap:
    """Whether one of some JSON scalars is read as a type."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(wide)
    except Exception:  # an author's type may raise anything here, and its own check reports it
        return Overlap.POSSIBLE
    for value in values:
        try:
            adapter.validate_json(value, strict=True)
        except ValidationError:
            continue
        except Exception:  # an author's validator
            return Overlap.POSSIBLE
        return Overlap.CERTAIN
    return Overlap.NONE


def _values(hint: Any) -> frozenset[str] | None:
    """The JSON of each value of an enumeration or a literal; None of other types."""
    members: list[Any] = []
    if get_origin(hint) is Literal:
        members = [one.value if isinstance(one, Enum) else one for one in get_args(hint)]
    elif isinstance(hint, type) and issubclass(hint, Enum):
        members = [one.value for one in hint]
    else:
        return None
    return frozenset(json.dumps(one) for one in members if isinstance(one, str | int | float | None))


def _is_native(hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return not any(isinstance(one, Enum) for one in get_args(hint))
    return hint in _NATIVE


def _is_scalar(hint: Any) -> bool:
    return isinstance(hint, type) and (hint in _NATIVE or hint is float or issubclass(hint, TEXTUAL))


@dataclass(frozen=True, slots=True)
class _Elements:
    """What an array holds: each element's type, or one type for any number of them."""

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
    is_row = issubclass(container, (list, tuple, AbstractSet, deque))
    if is_row or container is cast(Any, Sequence):
        return _Elements((arguments[0] if arguments else Any,), is_fixed=False)
    return None


def _pairs(one: _Elements, other: _Elements) -> list[tuple[Any, Any]] | None:
    """Types of the elements at the same positions; None if the lengths keep the two apart."""
    if one.is_fixed and other.is_fixed:
        return list(zip(one.types, other.types, strict=True)) if len(one.types) == len(other.types) else None
    if one.is_fixed or other.is_fixed:
        fixed, any_number = (one, other) if one.is_fixed else (other, one)
        return [(member, any_number.types[0]) for member in fixed.types]
    return [(one.types[0], other.types[0])]


def _container(hint: Any) -> type[Any] | None:
    origin = get_origin(hint) or hint
    return origin if isinstance(origin, type) else None


def _kind(hint: Any) -> str | None:
    """What a type is written as: a scalar, an array or an object; None if that is not known here."""
    if _is_scalar(hint):
        return "scalar"
    if _elements(hint) is not None:
        return "array"
    return "object" if shape_of(hint) is not None or _container(hint) in (dict, Mapping) else None
