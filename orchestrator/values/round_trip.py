"""Keeps a value from changing on its way through JSON: what is recorded or sent is read back as it was, or refused.

Most types cannot change, which `may_change` finds out once for each type; their values cost nothing here. A value of
any other type is read back where it arises, before anything is sent or committed, and compared. Knows pydantic alone.
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
"""Standard types of which a library may return its own subclass: the declared type that comes back is equal to it."""
_UNCHANGED = (str, int, bool, type(None), UUID, date, timedelta, IPv4Address, IPv6Address)
_FINITE = (float, Decimal)
"""Unchanged where NaN and infinity are refused."""
_CONTAINERS = (list, tuple, dict, set, frozenset)
_MODEL_OPTIONS = {"strict", "extra", "frozen", "allow_inf_nan", "title", "from_attributes", "use_attribute_docstrings"}
_HOOKS = ("__get_pydantic_core_schema__", "model_post_init", "__eq__")


def may_change(hint: Any) -> bool:
    """Whether a value of the type may come back from JSON as another one, or as one of another type.

    Args:
        hint: the type, read strictly and with NaN and infinity refused.
    """
    return _may_change(hint, set(), finite=True)


@lru_cache(maxsize=1024)
def model_may_change(model: type[BaseModel]) -> bool:
    """`may_change` of a model, remembered."""
    return may_change(model)


def may_be_deep(hint: Any) -> bool:
    """Whether a value of the type may be nested without limit: because it holds any JSON, or values of its own type."""
    return _is_deep(hint, ())


@lru_cache(maxsize=1024)
def model_may_be_deep(model: type[BaseModel]) -> bool:
    """`may_be_deep` of a model, remembered."""
    return may_be_deep(model)


def deeper_than(limit: int, data: object) -> bool:
    """Whether JSON is nested deeper. It goes level by level, because recursion would need the stack that is spared."""
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


def difference(given: Any, back: Any) -> str | None:
    """How a value that was read back differs from the one given, with its place and without its content.

    Two values are the same if they are equal and of one type, and so is everything inside them. A time zone may come
    back as its offset from UTC.

    Returns:
        None if they are the same.
    """
    return None if _is_plainly_same(given, back) else _difference(given, back, "")


def _is_plainly_same(given: Any, back: Any) -> bool:
    """Whether two values are the same, of the types that most have; False also means that it is not known."""
    if given is back:
        return True
    if type(given) is not type(back):
        return False
    kind: Any = given.__class__
    if kind in _PLAINLY_EQUAL or issubclass(kind, str):
        return bool(given == back)
    if issubclass(kind, BaseModel):
        fields, others = given.__dict__, back.__dict__
        return (
            given.__pydantic_extra__ is back.__pydantic_extra__ is None
            and fields.keys() == others.keys()
            and all(_is_plainly_same(value, others[name]) for name, value in fields.items())
        )
    if kind is dict:
        # What comes back has the same order, unless its type decides about it.
        is_same = len(given) == len(back) and all(map(_is_plainly_same, given, back))
        return is_same and all(map(_is_plainly_same, given.values(), back.values()))
    if kind is tuple or kind is list:
        return len(given) == len(back) and all(map(_is_plainly_same, given, back))
    return False


_PLAINLY_EQUAL = frozenset((int, str, UUID, date, timedelta, Decimal))


def _difference(given: Any, back: Any, place: str) -> str | None:
    if not _is_of_type(given, back):
        return _at(place, f"{_a(given)} comes back as {_a(back)}")
    match given:
        case datetime() | time():
            if _wall_clock(given) != _wall_clock(back):
                return _at(place, "its offset from UTC has seconds, which JSON drops: use `.astimezone(UTC)`")
            return None
        case float():
            is_same = given == back and copysign(1, given) == copysign(1, back)
            return None if is_same else _at(place, "the number comes back as another one")
        case str() | int() | None:
            return None if given == back else _at(place, f"{_a(given)} comes back as another one")
        case _:
            parts = _parts(given, back)
            if parts is None:
                return None if given == back else _at(place, f"{_a(given)} comes back as another one")
    for name, one, other in parts:
        if how := _difference(one, other, f"{place}.{name}" if place else name):
            return how
    return None


_MISSING = object()


def _is_of_type(given: Any, back: Any) -> bool:
    if isinstance(back, _STANDARD):
        return isinstance(given, type(back))
    return type(given) is type(back)


def _wall_clock(moment: Any) -> tuple[object, timedelta | None]:
    """What a clock shows, and its offset: moments of two zones are never equal while a clock is set back."""
    return moment.replace(tzinfo=None, fold=0), moment.utcoffset()


def _parts(given: Any, back: Any) -> Iterator[tuple[str, Any, Any]] | None:
    """What two values of one type consist of, in pairs; None if they are compared as a whole."""
    if isinstance(given, BaseModel):
        return _pairs_of(_fields(given), _fields(back))
    if dataclasses.is_dataclass(given):
        names = [one.name for one in dataclasses.fields(given)]
        return ((name, getattr(given, name, _MISSING), getattr(back, name, _MISSING)) for name in names)
    whole: Any = given
    if isinstance(given, Mapping):
        return iter([*_members("its key", whole, back), *_pairs_of(whole, back)])
    if isinstance(given, list | tuple | deque):
        row = cast("list[Any]", given)
        if len(row) != len(back):
            return iter([("its length", len(row), _MISSING)])
        return ((str(position), one, back[position]) for position, one in enumerate(row))
    if isinstance(given, AbstractSet):
        return iter(_members("its member", whole, back))
    return None


def _fields(model: Any) -> dict[str, Any]:
    return {**model.__dict__, **(model.__pydantic_extra__ or {})}


def _members(what: str, given: Collection[Any], back: Collection[Any]) -> list[tuple[str, Any, Any]]:
    """Members of a set, or keys, each with the equal one that came back."""
    known = {member: member for member in back}
    if len(known) != len(given):
        return [("its length", len(given), _MISSING)]
    return [(what, member, known.get(member, _MISSING)) for member in given]


def _pairs_of(given: Mapping[Any, Any], back: Mapping[Any, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in [*given, *(key for key in back if key not in given)]:
        yield str(key)[:100], given.get(key, _MISSING), back.get(key, _MISSING)


def _a(value: object) -> str:
    return "nothing" if value is _MISSING else f"a {type(value).__name__}"


def _at(place: str, text: str) -> str:
    return f"{place}: {text}" if place else text


def _may_change(hint: Any, seen: set[Any], *, finite: bool) -> bool:
    if get_origin(hint) is Annotated and not all(_is_plain(one) for one in hint.__metadata__):
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
        arguments = [one for one in get_args(hint) if one is not Ellipsis]
        if get_origin(hint) not in _CONTAINERS or not arguments:
            return True
        if get_origin(hint) is dict and not may_be_key(arguments[0]):
            return True
        return any(_may_change(one, seen, finite=finite) for one in arguments)
    if hint in _UNCHANGED:
        return False
    if issubclass(hint, Enum):
        return issubclass(hint, Flag)
    if hint in seen:
        return False
    seen.add(hint)
    return _class_may_change(cast("type[Any]", hint), seen, finite=finite)


def _union_may_change(hint: Any, seen: set[Any], *, finite: bool) -> bool:
    is_told_apart = discriminator_of(hint) is not None
    members = get_args(bare(hint))
    if not is_told_apart and any(
        clash(one, other) is not Overlap.NONE for place, one in enumerate(members) for other in members[:place]
    ):
        return True
    return any(_may_change(member, seen, finite=finite) for member in members)


def _class_may_change(hint: type[Any], seen: set[Any], *, finite: bool) -> bool:
    shape = shape_of(hint)
    if shape is None or hint.__subclasses__():
        return True  # a subclass is written as what is declared, and comes back as that
    if issubclass(hint, BaseModel):
        if not _is_plain_model(hint):
            return True
        finite = hint.model_config.get("allow_inf_nan") is False
    elif dataclasses.is_dataclass(hint):
        if hasattr(hint, "__post_init__") or not all(one.init for one in dataclasses.fields(hint)):
            return True
        finite = False
    else:
        return True
    return any(_may_change(one, seen, finite=finite) for one in shape.fields.values())


def _is_plain_model(model: type[BaseModel]) -> bool:
    """Whether a model is read and written by its fields alone."""
    if set(model.model_config) - _MODEL_OPTIONS or model.model_config.get("extra") == "allow":
        return False
    if model.__private_attributes__ or any(_has_alias(info) for info in model.model_fields.values()):
        return False
    if any(hook in vars(base) for base in model.__mro__[: model.__mro__.index(BaseModel)] for hook in _HOOKS):
        return False
    kinds = dataclasses.fields(model.__pydantic_decorators__)
    found = {name for kind in kinds for name in getattr(model.__pydantic_decorators__, kind.name)}
    return found <= set(Contract.__pydantic_decorators__.model_validators)


def _has_alias(info: FieldInfo) -> bool:
    return bool(info.alias or info.validation_alias or info.serialization_alias or info.exclude)


def _is_plain(annotation: object) -> bool:
    """Whether an annotation only limits values, and neither reads nor writes them."""
    if isinstance(annotation, FieldInfo):
        return not _has_alias(annotation) and not callable(annotation.discriminator)
    if isinstance(annotation, StringConstraints):
        return not (annotation.strip_whitespace or annotation.to_lower or annotation.to_upper)
    return isinstance(annotation, BaseMetadata | str)


def _is_deep(hint: Any, above: tuple[Any, ...]) -> bool:
    if hint is JsonValue or isinstance(hint, str):  # a name that stands for a type which is not known yet
        return True
    hint = bare(hint)
    if hint is JsonValue:
        return True
    if get_origin(hint) is Literal or hint is Ellipsis:
        return False
    if any(hint is one for one in above):
        return True
    shape = shape_of(hint)
    inner = shape.fields.values() if shape is not None else get_args(hint)
    if shape is None and not inner:
        return not isinstance(hint, type) or hint is object
    return any(_is_deep(one, (*above, hint)) for one in inner)
