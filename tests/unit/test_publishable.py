"""An event arrives exactly as published, with all digits and the type of each value, or it is refused."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import JsonValue

from orchestrator import Contract, DomainEvent
from orchestrator.cli.dead_letters.display import format_message
from orchestrator.cli.dead_letters.edit import apply_changes
from orchestrator.client.publishing.event_checks import checked_envelope, read_event
from orchestrator.errors import EventRejected
from orchestrator.event import FailureEvent, Fields, upcaster
from orchestrator.outbox import enveloped
from orchestrator.protocol.messages.envelope import NESTING_LIMIT, OUTCOME_SIZE_LIMIT, UnreadableEvent, read, wrap
from orchestrator.protocol.messages.json_text import has_rounded_number, is_rounded, rewrite
from orchestrator.protocol.messages.unwrapping import unwrap
from orchestrator.values.publishable import check_publishable


class Card(Contract):
    reference: str


class Iban(Contract):
    reference: str


class Signed(Card):
    by: str


class Colour(Enum):
    RED = "red"


class Paint(Enum):
    RED = "red"


class AnyPaid(DomainEvent):
    way: Card | Iban | None = None
    look: Colour | Paint | None = None
    card: Card | None = None
    at: datetime | None = None
    more: JsonValue = None


Publish = Callable[[DomainEvent], object]
WAYS: dict[str, Publish] = {
    "bus": lambda event: checked_envelope(event, event_id="e-1", source="test"),
    "outbox": lambda event: enveloped(event, "e-1"),
}


def nested(levels: int) -> JsonValue:
    value: JsonValue = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("publish", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    ("event", "message"),
    [
        (AnyPaid(way=Iban(reference="a")), "way: a Iban comes back as a Card"),
        (AnyPaid(look=Paint.RED), "look: a Paint comes back as a Colour"),
        (AnyPaid(card=Signed(reference="a", by="b")), "card: a Signed comes back as a Card"),
        (AnyPaid(at=datetime(2026, 1, 1, tzinfo=timezone(-timedelta(minutes=44, seconds=30)))), "at: its offset"),
        (AnyPaid(at=datetime(1924, 1, 1, tzinfo=ZoneInfo("Asia/Oral"))), "at: its offset"),
        (AnyPaid(more=nested(NESTING_LIMIT)), "nested deeper than 100 levels"),
        (AnyPaid(more=nested(220)), "nested deeper than 100 levels|cannot be written"),
        (AnyPaid.model_construct(more=float("inf")), "JSON"),
        (AnyPaid.model_construct(more=10**5_000), "JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_event_that_would_arrive_changed_is_refused_before_it_is_sent(
    publish: Publish, event: AnyPaid, message: str
) -> None:
    with pytest.raises(EventRejected, match=message) as refusal:
        publish(event)

    assert refusal.value.code == "event.invalid"


@pytest.mark.parametrize(
    "event",
    [
        AnyPaid(way=Card(reference="a"), look=Colour.RED, card=Card(reference="b")),
        AnyPaid(at=datetime(2026, 1, 1, 1, 2, 3, 4, tzinfo=UTC)),
        AnyPaid(at=datetime(2026, 7, 1, tzinfo=ZoneInfo("Asia/Kathmandu"))),
        AnyPaid(at=datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)),
        AnyPaid(more=nested(NESTING_LIMIT - 1)),
        AnyPaid(more={"a": [1, 1.0, -0.0, None, True, "x"]}),
    ],
)
def test_an_event_that_arrives_unchanged_can_be_published(event: AnyPaid) -> None:
    envelope = checked_envelope(event, event_id="e-1", source="test")

    assert repr(unwrap(read(envelope.text), AnyPaid).model_dump(mode="json")) == repr(event.model_dump(mode="json"))


def test_a_subclass_of_the_completed_event_is_refused() -> None:
    class AnyPaidElse(AnyPaid):
        surplus: int = 1

    event = AnyPaidElse()
    with pytest.raises(UnreadableEvent, match=r"surplus"):
        check_publishable(event, event.model_dump(mode="json"), read_as=AnyPaid)


def test_the_failure_event_of_an_event_at_the_nesting_limit_can_be_read() -> None:
    class NothingFailed(FailureEvent): ...

    event = AnyPaid(more=nested(NESTING_LIMIT - 1))
    failure = NothingFailed(
        event_id="e", event_type="X", event=event.model_dump(mode="json"), error_code="a.b", message="", undone=()
    )

    text = wrap(failure, event_id="f", source="test", limit=OUTCOME_SIZE_LIMIT).text

    assert unwrap(read(text, limit=OUTCOME_SIZE_LIMIT), NothingFailed) == failure


class Amount(Contract):
    value: Decimal


class Measured(DomainEvent):
    version = 2
    price: Decimal = Decimal(0)
    rate: float = 0.0
    more: JsonValue = None
    amounts: tuple[Amount, ...] = ()
    either: Decimal | float = 0.0

    @staticmethod
    @upcaster(1)
    def _had_a_cost(fields: Fields) -> Fields:
        return {"price": fields["cost"]}


LONG = "12345678901234567.89"


def message(data: str, version: int = 2) -> str:
    attributes = json.loads(wrap(Measured(), event_id="e-1", source="test").text)
    return json.dumps({**attributes, "data": "HERE", "dataversion": version}).replace('"HERE"', data)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (f'{{"price": {LONG}}}', "price"),
        (f'{{"price": -{LONG}}}', "price"),
        ('{"price": 0.1000000000000000055511151231257827}', "price"),
        ('{"price": 1e-400}', "price"),
        ('{"price": 9007199254740993.0}', "price"),
        (f'{{"more": {LONG}}}', "more"),
        (f'{{"more": {{"a": [1, {LONG}]}}}}', "more.a.1"),
        (f'{{"amounts": [{{"value": "1"}}, {{"value": {LONG}}}]}}', "amounts.1.value"),
        (f'{{"either": {LONG}}}', "either"),
        (f'{{"rate": {LONG}, "price": {LONG}}}', "price"),
    ],
)
def test_a_number_with_more_digits_than_a_float_must_be_sent_as_a_string(data: str, field: str) -> None:
    with pytest.raises(UnreadableEvent) as refusal:
        unwrap(read(message(data)), Measured)
    with pytest.raises(EventRejected) as typed:
        read_event_of(data)

    expected = f"{field}: the number has more digits than a JSON number keeps; send it as a string"
    assert (refusal.value.code, refusal.value.message) == ("event.invalid", expected)
    assert (typed.value.code, typed.value.message) == ("event.invalid", f"MEASURED: {expected}")


def read_event_of(data: str) -> DomainEvent:
    known: Any = SimpleNamespace(events={"MEASURED": Measured})
    return read_event(known, "MEASURED", data)


@pytest.mark.parametrize(
    ("data", "event"),
    [
        (f'{{"price": "{LONG}"}}', Measured(price=Decimal(LONG))),
        ('{"price": 12.50}', Measured(price=Decimal("12.50"))),
        ('{"price": 1e3}', Measured(price=Decimal(1000))),
        ('{"price": 12345678901234567890123}', Measured(price=Decimal(12345678901234567890123))),
        ('{"price": 0.1}', Measured(price=Decimal("0.1"))),
        ('{"rate": 0.10000000000000001}', Measured(rate=0.1)),
        (f'{{"rate": {LONG}}}', Measured(rate=float(LONG))),
        ('{"more": [0.1, 1e300, 123456789.125]}', Measured(more=[0.1, 1e300, 123456789.125])),
    ],
)
def test_every_other_number_arrives_with_the_digits_that_were_sent(data: str, event: Measured) -> None:
    assert unwrap(read(message(data)), Measured) == event
    assert read_event_of(data) == event


def test_a_number_of_an_old_contract_version_arrives_with_the_digits_that_were_sent() -> None:
    assert unwrap(read(message('{"cost": 1.25}', 1)), Measured) == Measured(price=Decimal("1.25"))
    with pytest.raises(UnreadableEvent, match="send it as a string"):
        unwrap(read(message(f'{{"cost": {LONG}}}', 1)), Measured)


def test_rewriting_a_json_text_keeps_the_digits_of_its_numbers() -> None:
    text = '{"a": 12345678901234567.89, "b": [1.10, 1e400, "ü", 7], "c": 1}'

    assert rewrite(text, lambda fields, loads: {**fields, "c": loads("2.50")}) == text.replace('"c": 1', '"c": 2.50')


@pytest.mark.parametrize(
    ("digits", "rounded"),
    [
        ("0.1", False),
        ("1.10", False),
        ("1e5", False),
        ("1.5E+300", False),
        (LONG, True),
        ("1e400", True),
        ("1e-400", True),
    ],
)
def test_a_number_counts_as_rounded_if_its_float_is_written_differently(digits: str, rounded: bool) -> None:
    assert is_rounded(digits) is rounded
    assert has_rounded_number(f'{{"a": [{digits}]}}') is rounded


def test_an_edited_dead_letter_keeps_and_shows_the_digits_of_its_numbers() -> None:
    letter: Any = SimpleNamespace(id=7, raw=f'{{"data": {{"price": {LONG}, "rate": 1.10}}, "id": "x"}}'.encode())

    edited = apply_changes(letter, ["data.rate=98765432109876543.21", "id=y"])

    assert edited.decode() == f'{{"data": {{"price": {LONG}, "rate": 98765432109876543.21}}, "id": "y"}}'
    assert f'"price": {LONG},' in format_message(letter.raw)[0]


def test_invalid_json_has_no_rounded_number() -> None:
    assert not has_rounded_number("[1")
