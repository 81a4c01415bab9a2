"""Events are strict, are named after their class, and are read from envelopes that may come from anywhere."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import cloudevents.v1.http
import cloudevents.v1.pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue, ValidationError, field_validator

from orchestrator import Contract, DomainEvent, FailureEvent, Fields, UndoneStep, upcaster
from orchestrator.event import event_type_of
from orchestrator.protocol.messages.envelope import (
    EVENT_SIZE_LIMIT,
    NESTING_LIMIT,
    Envelope,
    UnreadableEvent,
    read,
    saga_id,
    valid_event_id,
    wrap,
)
from orchestrator.protocol.messages.unwrapping import parse, unwrap

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Amount(Contract):
    minor: int


class MoneyMoved(DomainEvent):
    version = 3
    account: str
    amount: Amount
    labels: tuple[str, ...] = ()
    rate: float = 1.0


class MoveFailed(FailureEvent):
    """The money was not moved."""


MOVED = MoneyMoved(account="a", amount=Amount(minor=5), labels=("rent",))


def envelope(event: DomainEvent = MOVED, *, event_id: str = "e-1", time: datetime = NOON) -> Envelope:
    return wrap(event, event_id=event_id, source="test", time=time)


def message(**attributes: Any) -> str:
    """The JSON of an envelope with these attributes replaced."""
    return json.dumps({**json.loads(envelope().text), **attributes})


def unreadable(raw: str | bytes) -> UnreadableEvent:
    with pytest.raises(UnreadableEvent) as refusal:
        read(raw)
    return refusal.value


@pytest.mark.parametrize(
    ("name", "type_name"),
    [
        ("MoneyTransferRequested", "MONEY_TRANSFER_REQUESTED"),
        ("Moved", "MOVED"),
        ("HTTPSent", "HTTP_SENT"),
        ("Sent2Times", "SENT2_TIMES"),
    ],
)
def test_the_type_is_the_class_name_in_capitals(name: str, type_name: str) -> None:
    assert event_type_of(name) == type_name


@pytest.mark.parametrize("minor", ["5", 5.0, True, None, 10.5])
def test_only_an_integer_is_an_integer(minor: object) -> None:
    with pytest.raises(ValidationError):
        Amount.model_validate({"minor": minor})


@pytest.mark.parametrize("minor", ['"5"', "5.0", "5e0", "true", "null"])
def test_only_a_json_integer_is_an_integer(minor: str) -> None:
    with pytest.raises(UnreadableEvent, match=r"event\.invalid: amount\.minor: "):
        parse(f'{{"account": "a", "amount": {{"minor": {minor}}}}}', MoneyMoved)


def test_an_event_forbids_extra_fields_and_is_frozen() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        MoneyMoved.model_validate({**MOVED.model_dump(), "note": ""})
    with pytest.raises(ValidationError, match="Instance is frozen"):
        setattr(MOVED, "account", "b")  # noqa: B010 - a type checker refuses the plain form


@pytest.mark.parametrize("rate", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(rate: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        MoneyMoved(account="a", amount=Amount(minor=1), rate=rate)


@pytest.mark.parametrize(
    ("text", "fault"),
    [("a\x00b", "the text contains a NUL character"), ("a\ud800b", "the text contains a lone surrogate")],
)
def test_text_that_no_database_can_store_is_refused_in_every_field(text: str, fault: str) -> None:
    with pytest.raises(ValidationError, match=f"account: {fault}, which no database column can store"):
        MoneyMoved(account=text, amount=Amount(minor=1))
    with pytest.raises(ValidationError, match=f"labels: {fault}"):
        MoneyMoved(account="a", amount=Amount(minor=1), labels=("fine", text))
    for event in ({"deep": [{"er": text}]}, {text: 1}):
        with pytest.raises(ValidationError, match=f"event: {fault}"):
            failed(event)


def failed(event: dict[str, Any]) -> MoveFailed:
    step = UndoneStep(number=1, operation="account.withdraw", compensation="account.put_back")
    return MoveFailed(
        event_id="e-1", event_type="MONEY_MOVED", event=event, error_code="a.b", message="no", undone=(step,)
    )


def test_a_failure_event_survives_its_envelope() -> None:
    failure = failed({"any": [1, 2.5, None, {"thing": True}]})

    assert unwrap(read(envelope(failure).text), MoveFailed) == failure


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)
EVENTS = st.builds(
    MoneyMoved,
    account=TEXT,
    amount=st.builds(Amount, minor=st.integers()),
    labels=st.lists(TEXT, max_size=4).map(tuple),
    rate=st.floats(allow_nan=False, allow_infinity=False),
)
TIMES = st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2999, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(EVENTS, TIMES)
def test_a_wrapped_event_is_read_and_unwrapped_unchanged(event: MoneyMoved, time: datetime) -> None:
    wrapped = envelope(event, time=time)

    again = read(wrapped.text)

    assert again == wrapped
    assert read(wrapped.text.encode()) == wrapped
    assert unwrap(again, MoneyMoved) == event


def test_the_envelope_is_a_cloudevent() -> None:
    assert json.loads(envelope().text) == {
        "specversion": "1.0",
        "id": "e-1",
        "source": "test",
        "type": "MONEY_MOVED",
        "time": "2026-01-01T12:00:00Z",
        "datacontenttype": "application/json",
        "dataversion": 3,
        "data": {"account": "a", "amount": {"minor": 5}, "labels": ["rent"], "rate": 1.0},
    }


def test_the_cloudevents_sdk_reads_an_envelope() -> None:
    """Both the SDK's older interface and its pydantic model read an envelope with the engine's extensions."""
    follows = wrap(MoneyMoved(account="a", amount=Amount(minor=5)), event_id="e-2", source="test", because=envelope())

    interface: Any = cloudevents.v1.http
    model: Any = cloudevents.v1.pydantic
    by_interface, by_model = interface.from_json(follows.text), model.from_json(follows.text)

    assert by_interface.get_data() == follows.data
    assert by_interface.get_attributes()["causationid"] == "e-1"
    assert (by_model.id, by_model.type, by_model.time) == ("e-2", "MONEY_MOVED", follows.time)


JSON: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
ATTRIBUTES = ["specversion", "id", "source", "type", "time", "datacontenttype", "dataversion", "data"]


def _reads_or_is_unreadable(raw: str | bytes) -> None:
    """Check that a message is either readable, storable and convertible, or refused with a code."""
    try:
        envelope = read(raw)
        _ = envelope.content_digest
        envelope.text.encode()
        f"{envelope.event_type}{envelope.source}".encode()
        unwrap(envelope, MoneyMoved)
    except UnreadableEvent as unreadable:
        refusal = unreadable
    else:
        return
    assert refusal.code.startswith("event.")
    assert "\x00" not in refusal.message
    refusal.message.encode()


@given(st.text() | st.binary() | JSON.map(json.dumps))
def test_garbage_is_refused_as_unreadable(raw: str | bytes) -> None:
    _reads_or_is_unreadable(raw)


@given(st.dictionaries(st.sampled_from([*ATTRIBUTES, "data_base64", "subject", "ext"]), JSON, min_size=1))
def test_an_envelope_with_anything_in_its_attributes_is_read_or_unreadable(attributes: dict[str, JsonValue]) -> None:
    _reads_or_is_unreadable(message(**attributes))


@given(st.sampled_from(ATTRIBUTES))
def test_an_envelope_without_one_attribute_is_read_or_unreadable(missing: str) -> None:
    attributes = json.loads(envelope().text)
    del attributes[missing]

    _reads_or_is_unreadable(json.dumps(attributes))


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"\xff", "event.not_json"),
        ("", "event.not_json"),
        ("{", "event.not_json"),
        ('"\ud800"', "event.not_json"),
        ("[" * 100_000, "event.not_json"),
        ("[]", "event.not_cloudevent"),
        ("{}", "event.not_cloudevent"),
        (message(specversion="0.3"), "event.not_cloudevent"),
        (message(time="0001-01-01T00:00:00+14:00"), "event.not_cloudevent"),
        (message(time="9999-12-31T23:59:59-14:00"), "event.not_cloudevent"),
        (message(time="2026-01-01T00:00:00"), "event.not_cloudevent"),
        (message(time="2026-W01-1T00:00:00Z"), "event.not_cloudevent"),
        (message(time="2026-01-01T24:00:00Z"), "event.not_cloudevent"),
        (message(time="1767268800"), "event.not_cloudevent"),
        (message(time=1767268800), "event.not_cloudevent"),
        (message(id=""), "event.not_cloudevent"),
        (message(id=1), "event.not_cloudevent"),
        (message(source=""), "event.not_cloudevent"),
        (message(subject=""), "event.not_cloudevent"),
        (message(datacontenttype=None), "event.not_cloudevent"),
        (message(data_base64="e30="), "event.not_cloudevent"),
        (message(Upper=1), "event.not_cloudevent"),
        (message(correlationid="c" * 201), "event.not_cloudevent"),
        (message(causationid="\ud800"), "event.not_cloudevent"),
        (message(type="A" * 201), "event.not_cloudevent"),
        (message(type="A\ud800"), "event.not_cloudevent"),
        (message(source="A\x00"), "event.not_cloudevent"),
        (message(dataversion=0), "event.not_cloudevent"),
        (message(dataversion=True), "event.not_cloudevent"),
        (message(dataversion=2**31), "event.not_cloudevent"),
        (message(data=[]), "event.not_cloudevent"),
        (message(data={"rate": float("nan")}), "event.not_json"),
        (message(data={"rate": 1}).replace('"rate": 1', '"rate": 1e999'), "event.not_json"),
        (message(id="a b"), "event.invalid_id"),
        (message(id="a" * 129), "event.invalid_id"),
        (message(data={"x": "a" * EVENT_SIZE_LIMIT}), "event.too_large"),
    ],
)
def test_each_kind_of_unreadable_message_has_its_code(raw: str | bytes, code: str) -> None:
    assert unreadable(raw).code == code


@pytest.mark.parametrize(
    "time", ["2026-01-01t12:00:00.0000001z", "2026-01-01 14:00:00+02:00", "2026-01-01T12:00:00-00:00"]
)
def test_each_form_of_a_time_in_rfc_3339_is_read(time: str) -> None:
    assert read(message(time=time)).time == NOON


def test_unknown_extension_attributes_are_ignored() -> None:
    assert read(message(tenant="a", retries=3)).content_digest == envelope().content_digest


@pytest.mark.parametrize("missing", ["specversion", "id", "source", "type", "time", "data"])
def test_a_missing_attribute_is_named_and_not_filled_in(missing: str) -> None:
    attributes = json.loads(envelope().text)
    del attributes[missing]

    refusal = unreadable(json.dumps(attributes))

    assert refusal.code == "event.not_cloudevent"
    assert missing in refusal.message


def test_fields_may_be_nested_to_the_limit_and_no_deeper() -> None:
    def nested(levels: int) -> JsonValue:
        return {"x": nested(levels - 1)} if levels else 1

    assert read(message(data=nested(NESTING_LIMIT))).content_digest
    assert unreadable(message(data=nested(NESTING_LIMIT + 1))).message == "data: is nested deeper than 100 levels"


@pytest.mark.parametrize(
    ("change", "code", "part"),
    [
        ({"type": "OTHER"}, "event.unknown_type", "type: OTHER is not accepted here, only MONEY_MOVED"),
        (
            {"dataversion": 4},
            "event.version_newer",
            "dataversion: MONEY_MOVED has version 4, and this process knows it up to version 3",
        ),
        ({"dataversion": 2}, "event.version_unknown", "Declare an @upcaster(2)"),
        (
            {"data": {"account": 1, "amount": {"minor": "5"}}},
            "event.invalid",
            "account: Input should be a valid string",
        ),
        ({"data": {"account": 1, "amount": {"minor": "5"}}}, "event.invalid", "amount.minor: Input should be a valid"),
    ],
)
def test_an_envelope_of_another_event_is_not_unwrapped(change: dict[str, Any], code: str, part: str) -> None:
    with pytest.raises(UnreadableEvent) as refusal:
        unwrap(read(message(**change)), MoneyMoved)

    assert refusal.value.code == code
    assert part in refusal.value.message


class Renamed(DomainEvent):
    """An event whose only field has had three names."""

    version = 3
    third: int

    @staticmethod
    @upcaster(1)
    def _first(fields: Fields) -> Fields:
        return {"second": fields.pop("first")}

    @staticmethod
    @upcaster(2)
    def _second(fields: Fields) -> Fields:
        return {"third": fields["second"]}


def renamed(version: int, **fields: JsonValue) -> Envelope:
    """An envelope of one of the versions of `Renamed`."""
    return read(message(type="RENAMED", dataversion=version, data=fields))


def test_an_event_of_an_old_version_is_upcast_step_by_step_without_changing_its_envelope() -> None:
    first = renamed(1, first=7)

    assert unwrap(first, Renamed) == unwrap(renamed(2, second=7), Renamed) == Renamed(third=7)
    assert first.data == {"first": 7}


@pytest.mark.parametrize(("fields", "part"), [({}, "version 1 failed with KeyError"), ({"first": "x"}, "third: ")])
def test_fields_that_an_upcaster_cannot_convert_are_unreadable(fields: dict[str, JsonValue], part: str) -> None:
    with pytest.raises(UnreadableEvent, match=r"event\.invalid") as refusal:
        unwrap(renamed(1, **fields), Renamed)

    assert part in refusal.value.message


def test_an_event_carries_the_id_of_the_first_event_in_its_chain() -> None:
    first = envelope()
    second = wrap(MOVED, event_id="e-2", source="test", because=first)
    third = wrap(MOVED, event_id="e-3", source="test", because=read(second.text))

    assert (read(third.text).correlation_id, read(third.text).causation_id) == ("e-1", "e-2")
    assert read(third.text) == third
    assert third.content_digest == first.content_digest


@pytest.mark.parametrize("value", [7, "x" * 300, "\x00"])
def test_an_invalid_correlation_id_is_unreadable(value: JsonValue) -> None:
    with pytest.raises(UnreadableEvent, match=r"correlationid"):
        read(message(correlationid=value))


def test_an_error_message_never_repeats_the_value() -> None:
    with pytest.raises(UnreadableEvent) as refusal:
        unwrap(read(message(data={"account": ["secret"], "amount": {"minor": "secret"}})), MoneyMoved)

    assert "secret" not in str(refusal.value)


def test_the_content_digest_ignores_time_source_and_formatting() -> None:
    first = envelope()

    assert envelope(time=NOON + timedelta(days=1)).content_digest == first.content_digest
    assert wrap(MOVED, event_id="e-1", source="elsewhere").content_digest == first.content_digest
    assert read(json.dumps(json.loads(first.text), indent=4)).content_digest == first.content_digest
    assert envelope(MOVED.model_copy(update={"account": "b"})).content_digest != first.content_digest
    assert read(message(dataversion=4)).content_digest != first.content_digest
    assert read(message(type="OTHER")).content_digest != first.content_digest


def test_a_time_is_stored_in_utc_and_needs_a_time_zone() -> None:
    assert envelope(time=NOON.astimezone(timezone(timedelta(hours=2)))).text == envelope().text
    with pytest.raises(UnreadableEvent, match=r"event\.invalid: time: has no time zone"):
        envelope(time=NOON.replace(tzinfo=None))


def test_an_event_over_the_limit_is_not_wrapped() -> None:
    room = EVENT_SIZE_LIMIT - len(envelope(MOVED.model_copy(update={"account": ""})).text)
    fits = MOVED.model_copy(update={"account": "a" * room})

    assert len(envelope(fits).text) == EVENT_SIZE_LIMIT
    with pytest.raises(UnreadableEvent, match=r"event\.too_large: the event takes 262,145 bytes .* limit is 262,144"):
        envelope(MOVED.model_copy(update={"account": "a" * (room + 1)}))
    with pytest.raises(UnreadableEvent, match="limit is 100"):
        wrap(MOVED, event_id="e", source="test", limit=100)


@pytest.mark.parametrize("event_id", ["a", "0", "A-1_b.c:d@e=f+g", "x" * 128])
def test_a_valid_event_id_is_accepted(event_id: str) -> None:
    assert valid_event_id(event_id)
    assert envelope(event_id=event_id).event_id == event_id


@pytest.mark.parametrize("event_id", ["", "-a", "a/b", "a b", "ä", "a\n", "x" * 129, "\ud800"])
def test_an_invalid_event_id_is_refused(event_id: str) -> None:
    assert not valid_event_id(event_id)
    with pytest.raises(UnreadableEvent) as refusal:
        envelope(event_id=event_id)
    assert refusal.value.code == "event.invalid_id"


def test_a_saga_has_one_id_for_one_orchestrator_and_one_event() -> None:
    assert saga_id("MoneyTransfer", "e-1") == saga_id("MoneyTransfer", "e-1")
    assert len({saga_id("MoneyTransfer", "e-1"), saga_id("Other", "e-1"), saga_id("MoneyTransfer", "e-2")}) == 3
    # The value is pinned, so that sagas of an older engine are found again.
    assert str(saga_id("MoneyTransfer", "e-1")) == "8ea33855-6289-52b6-9b75-34200fe3fbc9"


@pytest.mark.parametrize("doubled", ['{"data": {"amount": 1, "amount": 2}}', '{"id": "a", "id": "b"}'])
def test_a_duplicate_field_is_refused_as_ambiguous(doubled: str) -> None:
    with pytest.raises(UnreadableEvent, match="is given twice") as refusal:
        read(doubled)

    assert refusal.value.code == "event.not_json"


def test_a_validator_that_raises_an_unexpected_error_makes_the_event_invalid() -> None:
    """Otherwise one message would crash its reader again and again."""

    class Divided(DomainEvent):
        by: int

        @field_validator("by")
        @classmethod
        def _divides(cls, by: int) -> int:
            return 100 % by

    with pytest.raises(UnreadableEvent, match="ZeroDivisionError") as refusal:
        parse('{"by": 0}', Divided)
    assert refusal.value.code == "event.invalid"
