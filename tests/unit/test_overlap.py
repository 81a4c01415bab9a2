"""A union whose members share a JSON form is a definition fault; any other value is read back exactly or refused."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from pathlib import PurePath
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, JsonValue, SecretStr, TypeAdapter
from typing_extensions import TypedDict

from orchestrator import Contract
from orchestrator.definition.types import Use, faults_of_type
from orchestrator.errors import ResultInvalid, Unrecordable
from orchestrator.operation import Operation, query
from orchestrator.store.saga.fence import ResultTooLarge, recordable
from orchestrator.transaction import Transaction
from orchestrator.values.overlap import bare
from orchestrator.values.round_trip import may_change


class Card(Contract):
    reference: str


class Iban(Contract):
    reference: str


class Cash(Contract):
    note: str
    reference: str = ""


class Wide(Contract):
    reference: str
    note: str = ""


class Cheque(Contract):
    kind: Literal["cheque"] = "cheque"
    reference: str


class Voucher(Contract):
    kind: Literal["voucher"] = "voucher"
    reference: str


class Whole(Contract):
    share: int


class Part(Contract):
    share: float


class Nested(Contract):
    way: Card


class NestedElse(Contract):
    way: Iban


class Level(Enum):
    LOW = 1
    HIGH = 2


class Rank(IntEnum):
    LOW = 1


class Colour(StrEnum):
    RED = "red"


class Paint(Enum):
    RED = "red"
    BLUE = "blue"


class Wood(StrEnum):
    OAK = "oak"


class Rights(Flag):
    READ = 1


class Pair(NamedTuple):
    first: int
    second: str


@dataclasses.dataclass(frozen=True)
class Point:
    reference: str


class Loose(BaseModel):
    reference: str


class Named(TypedDict):
    reference: str
    more: NotRequired[int]


Positive: Any = Annotated[int, Field(gt=0)]

AMBIGUOUS: Sequence[Any] = [
    Card | Iban,
    Iban | Card | None,
    Card | Wide,
    Card | Cheque,
    Nested | NestedElse,
    Card | Point,
    Card | Loose,
    Card | Named,
    Card | dict[str, str],
    Card | JsonValue,
    tuple[Card | Iban, ...],
    tuple[Card, ...] | tuple[Iban, ...],
    tuple[int, Card] | tuple[int, Iban],
    list[int] | tuple[int, ...],
    Pair | tuple[int, str],
    dict[str, int] | dict[int, int],
    Colour | Paint,
    Colour | str,
    Colour | Literal["red"],
    Rank | int,
    Level | int,
    Rank | float,
    UUID | str,
    Decimal | str,
    PurePath | UUID,
    time | timedelta,
    Decimal | date,
    Decimal | datetime,
]
OF_A_KIND: Any = Annotated[Cheque | Voucher, Field(discriminator="kind")]
APART: Sequence[Any] = [
    Cheque | Voucher,
    OF_A_KIND,
    Card | Cash | None,
    Colour | Wood,
    Colour | int,
    Level | str,
    Literal["a"] | str,
    int | float | None,
    int | Decimal,
    float | Decimal,
    bool | int,
    UUID | date | timedelta,
    list[int] | list[str],
    tuple[int, str] | tuple[int, str, int],
    tuple[int, Card] | tuple[str, Iban],
    Card | str,
    Positive | None,
]
DEPENDS: Sequence[Any] = [
    Whole | Part,
    Rights,
    datetime,
    time,
    Sequence[int],
    JsonValue,
    float | JsonValue,
]


@pytest.mark.parametrize("hint", AMBIGUOUS, ids=str)
def test_a_union_whose_members_share_a_json_form_is_a_definition_fault(hint: Any) -> None:
    [fault] = faults_of_type(hint, Use.RESULT)

    assert "is ambiguous" in fault
    assert may_change(hint)


def test_a_union_of_contracts_with_the_same_fields_is_advised_to_have_a_discriminator() -> None:
    [fault] = faults_of_type(Card | Iban, Use.FIELD)

    assert fault.endswith('and write `Annotated[Card | Iban, Field(discriminator="kind")]`')


@pytest.mark.parametrize("hint", APART, ids=str)
def test_a_union_whose_members_have_different_json_forms_needs_no_check_of_values(hint: Any) -> None:
    assert faults_of_type(hint, Use.RESULT) == []
    assert not may_change(hint)


@pytest.mark.parametrize("hint", DEPENDS, ids=str)
def test_a_type_whose_values_may_be_read_back_differently_has_them_checked(hint: Any) -> None:
    assert faults_of_type(hint, Use.RESULT) == []
    assert may_change(hint)


@pytest.mark.parametrize(
    "key", [Level, Literal[1], str | None, int | str, JsonValue, None, tuple[int, int], frozenset[int], Card], ids=str
)
def test_a_dictionary_whose_keys_cannot_be_read_back_from_text_is_a_fault(key: Any) -> None:
    assert "keys that JSON turns into text" in faults_of_type(DICT[key, int], Use.RESULT)[0]


@pytest.mark.parametrize("key", [str, int, UUID, date, Decimal, Colour, Rank, Literal["a", "b"], float, bool], ids=str)
def test_a_dictionary_whose_keys_can_be_read_back_is_accepted(key: Any) -> None:
    assert faults_of_type(DICT[key, int], Use.RESULT) == []


def test_a_secret_that_would_be_recorded_as_asterisks_is_a_fault() -> None:
    assert "asterisks" in faults_of_type(SecretStr, Use.ARGUMENT)[0]


class Paid(BaseModel):
    way: Card | Iban
    by: Mapping[Level, int]


def test_a_model_inside_of_an_argument_is_checked_too() -> None:
    assert [fault.partition(" ")[0] for fault in faults_of_type(list[Paid], Use.ARGUMENT)] == ["Paid.way:", "Paid.by:"]


def carrier(hint: Any) -> Operation[[Any], Any]:
    async def carry(tx: Transaction, value: Any) -> Any:
        return value

    carry.__annotations__.update(value=hint, **{"return": hint})
    return query(carry)


class Priced(Contract):
    price: Decimal


class Discounted(Priced):
    rate: Decimal


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (Card | Iban, Iban(reference="a"), "a Iban comes back as a Card"),
        (tuple[Card | Iban, ...], (Card(reference="a"), Iban(reference="b")), "1: a Iban comes back as a Card"),
        (Colour | Paint, Paint.RED, "a Paint comes back as a Colour"),
        (Priced, Discounted(price=Decimal(1), rate=Decimal(2)), "a Discounted comes back as a Priced"),
        (Sequence[int], (1, 2), "a tuple comes back as a list"),
        (dict[Level, int], {Level.LOW: 1}, "could not be read back"),
        (dict[int | str, int], {1: 1}, "its key"),
        (SecretStr, SecretStr("x"), "a SecretStr comes back as another one"),
        (JsonValue, float("inf"), "JSON"),
        (datetime, datetime(2026, 1, 1, tzinfo=timezone(-timedelta(minutes=44, seconds=30))), "astimezone"),
        (time, time(1, tzinfo=timezone(timedelta(seconds=30))), "astimezone"),
    ],
)
def test_a_value_that_would_be_read_back_differently_is_neither_described_nor_recorded(
    hint: Any, value: Any, message: str
) -> None:
    carry = carrier(hint)

    with pytest.raises(Unrecordable, match=message):
        carry(value)
    with pytest.raises(Unrecordable, match=message):
        carry.signature.dump_result(value)


def nested(levels: int) -> JsonValue:
    value: JsonValue = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_a_value_may_be_nested_only_as_deep_as_an_event() -> None:
    carry = carrier(JsonValue)

    carry.signature.load_result(carry.signature.dump_result(nested(100)))

    for levels in (101, 200, 300, 5_000):
        with pytest.raises(ValueError, match=r"nested deeper|Recursion error"):
            carry(nested(levels))
        with pytest.raises(ValueError, match=r"nested deeper|Recursion error"):
            carry.signature.dump_result(nested(levels))


def test_arguments_over_the_limit_are_refused_where_the_call_is_described() -> None:
    with pytest.raises(Unrecordable, match=r"take 516,0\d\d bytes and the limit is 258,048"):
        carrier(str)("ä" * 258_000)


def test_a_result_over_the_limit_is_refused_with_its_size_in_bytes() -> None:
    with pytest.raises(ResultTooLarge, match=r"takes 300,002 bytes and the limit is 258,048"):
        recordable(carrier(str), "ä" * 150_000)


def test_a_result_that_would_be_read_back_differently_is_its_authors_mistake() -> None:
    with pytest.raises(
        ResultInvalid, match=r"a value of type Iban, but declares .* \(carry: .*a Iban comes back as a Card"
    ):
        recordable(carrier(Card | Iban), Iban(reference="a"))


SCALARS: Mapping[Any, st.SearchStrategy[Any]] = {
    str: st.text(),
    int: st.integers(min_value=-(10**30), max_value=10**30),
    bool: st.booleans(),
    float: st.floats(),
    None: st.none(),
    Decimal: st.decimals(),
    UUID: st.uuids(),
    date: st.dates(),
    datetime: st.datetimes() | st.datetimes(timezones=st.timezones()) | st.just(datetime(2026, 1, 1, tzinfo=UTC)),
    time: st.times(),
    timedelta: st.timedeltas(),
    Level: st.sampled_from(Level),
    Rank: st.sampled_from(Rank),
    Colour: st.sampled_from(Colour),
    Paint: st.sampled_from(Paint),
    Literal["red", 1]: st.sampled_from(["red", 1]),
    PurePath: st.builds(PurePath, st.text(alphabet="ab/.-0123", min_size=1)),
    Card: st.builds(Card, reference=st.sampled_from("ab")),
    Iban: st.builds(Iban, reference=st.sampled_from("ab")),
    Cash: st.builds(Cash, note=st.sampled_from("ab")),
    Cheque: st.builds(Cheque, reference=st.sampled_from("ab")),
    Voucher: st.builds(Voucher, reference=st.sampled_from("ab")),
    Whole: st.builds(Whole, share=st.integers(-5, 5)),
    Part: st.builds(Part, share=st.integers(-5, 5).map(float)),
    Pair: st.builds(Pair, st.integers(), st.just("red")),
    Point: st.builds(Point, reference=st.just("a")),
    Named: st.just({"reference": "a"}),
}


TUPLE: Any = tuple
LIST: Any = list
DICT: Any = dict
SEQUENCE: Any = Sequence


def typed(inner: st.SearchStrategy[tuple[Any, Any]]) -> st.SearchStrategy[tuple[Any, Any]]:
    """Types that contain other types, each with a value."""

    def combine(pairs: list[tuple[Any, Any]], form: int) -> tuple[Any, Any]:
        hint: Any
        (hint, value), (other, more) = pairs
        forms: list[tuple[Any, Any]] = [
            (cast(Any, hint) | other, more) if hint is not None or other is not None else (None, None),
            (TUPLE[hint, ...], (value,)),
            (TUPLE[hint, other], (value, more)),
            (LIST[hint] | TUPLE[other, ...], (more,)),
            (LIST[hint] | LIST[other], [more]),
            (DICT[str, cast(Any, hint) | other] if hint or other else DICT[str, None], {"k": more}),
            (SEQUENCE[hint], (value,)),
        ]
        return forms[form]

    return st.builds(combine, st.lists(inner, min_size=2, max_size=2), st.integers(0, 6))


LEAVES = st.sampled_from(list(SCALARS)).flatmap(lambda hint: st.tuples(st.just(hint), SCALARS[hint]))


@given(st.recursive(LEAVES, typed, max_leaves=5))
def test_every_value_is_read_back_exactly_or_is_refused(typed_value: tuple[Any, Any]) -> None:
    hint, value = typed_value
    carry = carrier(hint)
    try:
        recorded = carry.signature.dump_result(value)
        described = carry(value)
    except ValueError:
        return

    for back in (carry.signature.load_result(recorded), carry.signature.load_arguments(described.arguments)["value"]):
        as_declared = carry.signature.load_result(recorded)
        assert repr(back) == repr(as_declared)
        assert same(value, back)


def same(value: Any, other: Any) -> bool:
    """Whether two values are equal and of one type at every level, independently of the engine's own comparison."""
    if isinstance(value, float | Decimal) and type(value) is not type(other):
        return bool(value == other)  # a float may be declared where an int is given
    if isinstance(value, datetime):
        return bool(value.utcoffset() == other.utcoffset() and value.replace(tzinfo=None) == other.replace(tzinfo=None))
    if isinstance(value, list | tuple):
        return type(value) is type(other) and all(map(same, value, other)) and len(value) == len(other)  # pyright: ignore
    if isinstance(value, dict):
        return isinstance(other, dict) and value.keys() == other.keys() and all(same(value[k], other[k]) for k in value)  # pyright: ignore
    return type(value) is type(other) and bool(value == other)


def test_a_type_is_unwrapped_from_its_annotations() -> None:
    assert bare(Annotated[Annotated[int, Field(gt=0)], Field(lt=5)]) is int
    assert TypeAdapter(Card).validate_json('{"reference": "a"}') == Card(reference="a")
