"""Rejects a value that would change on its way through JSON, before it is recorded or sent.

Values of most types cannot change. `may_change` decides that once for each type, and their values need no check. A
value of any other type is read back and compared before anything is sent or committed. This module depends only on
pydantic.
"""

import dataclasses
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from itertools import combinations
from math import copysign
from pathlib import PurePath
from typing import Annotated, Any, Literal, cast, get_args, get_origin
from uuid import UUID

from annotated_types import BaseMetadata
from pydantic import BaseModel, JsonValue, StringConstraints
from pydantic.fields import FieldInfo

from orchestrator.event import Contract
from orchestrator.values.overlap import Overlap, bare, clash, discriminator_of, is_union, may_be_key, shape_of

_STANDARD = (UUID, date, timedelta, Decimal, PurePath, IPv4Address, IPv6Address)
"""Standard types of which a library may return a subclass. It counts as the same as the declared type."""
_UNCHANGED = (str, int, bool, type(None), UUID, date, timedelta, IPv4Address, IPv6Address)
_FINITE = (float, Decimal)
"""Types that are unchanged if NaN and infinity are rejected."""
_CONTAINERS = (list, tuple, dict, set, frozenset)
_MODEL_OPTIONS = {"strict", "extra", "frozen", "allow_inf_nan", "title", "from_attributes", "use_attribute_docstrings"}
_HOOKS = ("__get_pydantic_core_schema__", "model_post_init", "__eq__")


def may_change(hint: Any) -> bool:
    """Return whether a value of the type may be read back from JSON as another value, or with another type.

    Args:
        hint: the type. It is read strictly, with NaN and infinity rejected.
    """
    return _may_change(hint, set(), finite=True)


@lru_cache(maxsize=1024)
def model_may_change(model: type[BaseModel]) -> bool:
    """Return `may_change` of a model, cached."""
    return may_change(model)


def may_be_deep(hint: Any) -> bool:
    """Return whether values may be nested without limit, because they can contain any JSON or their own type."""
    return _is_deep(hint, ())


@lru_cache(maxsize=1024)
def model_may_be_deep(model: type[BaseModel]) -> bool:
    """Return `may_be_deep` of a model, cached."""
    return may_be_deep(model)


def deeper_than(limit: int, data: object) -> bool:
    """Return whether JSON is nested deeper than a limit. It iterates, because recursion could exhaust the stack."""
    level: list[object] = [data]
    for _ in range(limit):
        inner: list[object] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(cast("dict[str, object]", value).values())
            elif isinstance(value, list):
                inner.extend(cast("list[object]", value))
        if not inner:
            return False
        level = inner
    return any(isinstance(value, dict | list) for value in level)


def difference(original: Any, back: Any) -> str | None:
    """Describe how a value that was read back differs from the original, with its location but without its content.

    Two values are the same if they are equal and have the same type, and so has everything inside them. A time zone may
    be read back as its offset from UTC.

    Returns:
        None if they are the same.
    """
    return None if _is_plainly_same(original, back) else _difference(original, back, "")


def _is_plainly_same(original: Any, back: Any) -> bool:
    """A fast comparison for the most common types. False can also mean that it cannot decide."""
    if original is back:
        return True
    if type(original) is not type(back):
        return False
    kind: Any = original.__class__
    if kind in _PLAINLY_EQUAL or issubclass(kind, str):
        return bool(original == back)
    if issubclass(kind, BaseModel):
        fields, others = original.__dict__, back.__dict__
        return (
            original.__pydantic_extra__ is back.__pydantic_extra__ is None
            and fields.keys() == others.keys()
            and all(_is_plainly_same(value, others[name]) for name, value in fields.items())
        )
    if kind is dict:
        # The order is the same, unless the type changes it.
        is_same = len(original) == len(back) and all(map(_is_plainly_same, original, back))
        return is_same and all(map(_is_plainly_same, original.values(), back.values()))
    if kind is tuple or kind is list:
        return len(original) == len(back) and all(map(_is_plainly_same, original, back))
    return False


_PLAINLY_EQUAL = frozenset((int, str, UUID, date, timedelta, Decimal))


def _difference(original: Any, back: Any, location: str) -> str | None:
    if not _is_of_type(original, back):
        return _at(location, f"{_a(original)} comes back as {_a(back)}")
    match original:
        case datetime() | time():
            if _wall_clock(original) != _wall_clock(back):
                return _at(location, "its offset from UTC has seconds, which JSON drops: use `.astimezone(UTC)`")
            return None
        case float():
            is_same = original == back and copysign(1, original) == copysign(1, back)
            return None if is_same else _at(location, "the number comes back as another one")
        case str() | int() | None:
            return None if original == back else _at(location, f"{_a(original)} comes back as another one")
        case _:
            parts = _parts(original, back)
            if parts is None:
                return None if original == back else _at(location, f"{_a(original)} comes back as another one")
    for name, before, after in parts:
        if how := _difference(before, after, f"{location}.{name}" if location else name):
            return how
    return None


_MISSING = object()


def _is_of_type(original: Any, back: Any) -> bool:
    if isinstance(back, _STANDARD):
        return isinstance(original, type(back))
    return type(original) is type(back)


def _wall_clock(moment: Any) -> tuple[object, timedelta | None]:
    """Local time and offset. Python never considers times of two zones equal while a clock is set back."""
    return moment.replace(tzinfo=None, fold=0), moment.utcoffset()


def _parts(original: Any, back: Any) -> Iterator[tuple[str, Any, Any]] | None:
    """The parts of two values of one type, in pairs, or None if the values are compared as a whole."""
    if isinstance(original, BaseModel):
        return _pairs_of(_fields(original), _fields(back))
    if dataclasses.is_dataclass(original):
        names = [field.name for field in dataclasses.fields(original)]
        return ((name, getattr(original, name, _MISSING), getattr(back, name, _MISSING)) for name in names)
    whole: Any = original
    if isinstance(original, Mapping):
        return iter([*_members("its key", whole, back), *_pairs_of(whole, back)])
    if isinstance(original, list | tuple | deque):
        row = cast("list[Any]", original)
        if len(row) != len(back):
            return iter([("its length", len(row), _MISSING)])
        return ((str(position), item, back[position]) for position, item in enumerate(row))
    if isinstance(original, AbstractSet):
        return iter(_members("its member", whole, back))
    return None


def _fields(model: Any) -> dict[str, Any]:
    return {**model.__dict__, **(model.__pydantic_extra__ or {})}


def _members(what: str, original: Collection[Any], back: Collection[Any]) -> list[tuple[str, Any, Any]]:
    """The members of a set, or keys, each with the equal one that was read back."""
    known = {member: member for member in back}
    if len(known) != len(original):
        return [("its length", len(original), _MISSING)]
    return [(what, member, known.get(member, _MISSING)) for member in original]


def _pairs_of(original: Mapping[Any, Any], back: Mapping[Any, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in [*original, *(key for key in back if key not in original)]:
        yield str(key)[:100], original.get(key, _MISSING), back.get(key, _MISSING)


def _a(value: object) -> str:
    return "nothing" if value is _MISSING else f"a {type(value).__name__}"


def _at(location: str, text: str) -> str:
    return f"{location}: {text}" if location else text


def _may_change(hint: Any, seen: set[Any], *, finite: bool) -> bool:
    if get_origin(hint) is Annotated and not all(map(_is_plain, hint.__metadata__)):
        return True
    if is_union(hint) or is_union(bare(hint)):
        return _union_may_change(hint, seen, finite=finite)
    hint = bare(hint)
    if hint is JsonValue:
        return True
    if get_origin(hint) is Literal:
        return False
    if hint in _FINITE:
        return not finite
    if not isinstance(hint, type) or get_origin(hint) is not None:
        arguments = [argument for argument in get_args(hint) if argument is not Ellipsis]
        if get_origin(hint) not in _CONTAINERS or not arguments:
            return True
        if get_origin(hint) is dict and not may_be_key(arguments[0]):
            return True
        return any(_may_change(argument, seen, finite=finite) for argument in arguments)
    if hint in _UNCHANGED:
        return False
    if issubclass(hint, Enum):
        return issubclass(hint, Flag)
    if hint in seen:
        return False
    seen.add(hint)
    return _class_may_change(cast("type[Any]", hint), seen, finite=finite)


def _union_may_change(hint: Any, seen: set[Any], *, finite: bool) -> bool:
    has_discriminator = discriminator_of(hint) is not None
    members = get_args(bare(hint))
    if not has_discriminator and any(
        clash(first, second) is not Overlap.NONE for first, second in combinations(members, 2)
    ):
        return True
    return any(_may_change(member, seen, finite=finite) for member in members)


def _class_may_change(hint: type[Any], seen: set[Any], *, finite: bool) -> bool:
    shape = shape_of(hint)
    if shape is None or hint.__subclasses__():
        return True  # a value of a subclass is written and read back as the declared class
    if issubclass(hint, BaseModel):
        if not _is_plain_model(hint):
            return True
        finite = hint.model_config.get("allow_inf_nan") is False
    elif dataclasses.is_dataclass(hint):
        if hasattr(hint, "__post_init__") or not all(field.init for field in dataclasses.fields(hint)):
            return True
        finite = False
    else:
        return True
    return any(_may_change(field, seen, finite=finite) for field in shape.fields.values())


def _is_plain_model(model: type[BaseModel]) -> bool:
    """Whether a model is read and written only by its fields, without validators, serializers or aliases."""
    if set(model.model_config) - _MODEL_OPTIONS or model.model_config.get("extra") == "allow":
        return False
    if model.__private_attributes__ or any(_has_alias(info) for info in model.model_fields.values()):
        return False
    if any(hook in vars(base) for base in model.__mro__[: model.__mro__.index(BaseModel)] for hook in _HOOKS):
        return False
    kinds = dataclasses.fields(model.__pydantic_decorators__)
    decorated = {name for kind in kinds for name in getattr(model.__pydantic_decorators__, kind.name)}
    return decorated <= set(Contract.__pydantic_decorators__.model_validators)


def _has_alias(info: FieldInfo) -> bool:
    return bool(info.alias or info.validation_alias or info.serialization_alias or info.exclude)


def _is_plain(annotation: object) -> bool:
    """Whether an annotation only limits values, and changes neither how they are read nor how they are written."""
    if isinstance(annotation, FieldInfo):
        return not _has_alias(annotation) and not callable(annotation.discriminator)
    if isinstance(annotation, StringConstraints):
        return not (annotation.strip_whitespace or annotation.to_lower or annotation.to_upper)
    return isinstance(annotation, BaseMetadata | str)


def _is_deep(hint: Any, above: tuple[Any, ...]) -> bool:
    if hint is JsonValue or isinstance(hint, str):  # a forward reference, whose type is not known yet
        return True
    hint = bare(hint)
    if hint is JsonValue:
        return True
    if get_origin(hint) is Literal or hint is Ellipsis:
        return False
    if any(hint is outer for outer in above):
        return True
    shape = shape_of(hint)
    inner = shape.fields.values() if shape is not None else get_args(hint)
    if shape is None and not inner:
        return not isinstance(hint, type) or hint is object
    return any(_is_deep(part, (*above, hint)) for part in inner)
