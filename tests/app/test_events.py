"""The event contracts: what they accept and reject. A rejection names the field and repeats no value."""

import json
from collections.abc import Mapping
from typing import Any, cast

import pytest
from pydantic import JsonValue, ValidationError

from activities.account import withdraw
from events.account import (
    AccountCreated,
    AccountCreationCompleted,
    AccountCreationFailed,
    MoneyTransferCompleted,
    MoneyTransferFailed,
    MoneyTransferRequested,
)
from events.identity import AccountId, UserId
from events.money import MONEY_LIMIT, Currency
from orchestrator import Catalog, DomainEvent
from orchestrator.protocol.messages.envelope import UnreadableEvent
from orchestrator.protocol.messages.unwrapping import parse
from tests.app.samples import EUR, OLENA, OLENA_USD, USD, a_transfer, an_account, eur, usd


def fields_of(event: DomainEvent) -> dict[str, Any]:
    """The event's fields as JSON."""
    return event.model_dump(mode="json")


def refusal_of(event_class: type[DomainEvent], fields: Mapping[str, Any] | str) -> str:
    """The message with which the contract rejects these fields."""
    with pytest.raises(UnreadableEvent) as refused:
        parse(fields if isinstance(fields, str) else json.dumps(fields), event_class)
    assert refused.value.code == "event.invalid"
    return refused.value.message


def test_the_event_types_keep_their_public_names() -> None:
    types = [
        event.type_name()
        for event in (
            AccountCreated,
            AccountCreationCompleted,
            AccountCreationFailed,
            MoneyTransferRequested,
            MoneyTransferCompleted,
            MoneyTransferFailed,
        )
    ]

    assert types == [
        "ACCOUNT_CREATED",
        "ACCOUNT_CREATION_COMPLETED",
        "ACCOUNT_CREATION_FAILED",
        "MONEY_TRANSFER_REQUESTED",
        "MONEY_TRANSFER_COMPLETED",
        "MONEY_TRANSFER_FAILED",
    ]


def test_the_application_has_no_definition_fault() -> None:
    catalog = Catalog.discover(["events", "activities", "workflows"])

    assert sorted(catalog.orchestrators) == [
        "AccountCreation",
        "AccountValueEdit",
        "ActivityRecordRemoval",
        "CategoryReset",
        "CategoryTransaction",
        "CurrencyChange",
        "MoneyTransfer",
        "MonthReset",
    ]


@pytest.mark.parametrize("event", [an_account(), a_transfer(), a_transfer(arriving=eur(999))])
def test_an_event_survives_a_round_trip_through_json(event: DomainEvent) -> None:
    assert parse(json.dumps(fields_of(event)), type(event)) == event


def test_money_is_sent_as_minor_units_and_a_currency_code() -> None:
    assert fields_of(a_transfer(amount=usd(1_050)))["amount"] == {"amount_minor": 1050, "currency": "USD"}


def test_each_example_of_a_new_account_has_its_own_id() -> None:
    ids = {AccountCreated.example().account_id for _ in range(50)}

    assert len(ids) == 50


@pytest.mark.parametrize(
    "number", ["10.0", "1e2", "true", '"10"', "NaN", "Infinity", "null", "[10]", "10.5", str(10**30), "1e400"]
)
def test_an_amount_must_be_a_whole_number(number: str) -> None:
    fields = json.dumps(fields_of(a_transfer())).replace("1050", number)
    assert number in fields

    assert "amount.amount_minor: " in refusal_of(MoneyTransferRequested, fields)


@pytest.mark.parametrize("amount", [0, -1, -MONEY_LIMIT])
@pytest.mark.parametrize("field", ["amount", "arriving"])
def test_a_moved_amount_must_be_more_than_zero(field: str, amount: int) -> None:
    fields = fields_of(a_transfer()) | {field: {"amount_minor": amount, "currency": "EUR"}}

    assert refusal_of(MoneyTransferRequested, fields) == f"{field}: must be more than zero"


@pytest.mark.parametrize("amount", [MONEY_LIMIT + 1, 2**63, -MONEY_LIMIT - 1])
def test_an_amount_over_the_limit_is_rejected(amount: int) -> None:
    fields = fields_of(a_transfer()) | {"amount": {"amount_minor": amount, "currency": "USD"}}

    assert "amount.amount_minor: " in refusal_of(MoneyTransferRequested, fields)


def test_the_largest_amount_is_accepted() -> None:
    assert a_transfer(amount=usd(MONEY_LIMIT)).amount.amount_minor == 10**15


@pytest.mark.parametrize("code", ["XXX", "DEM", "XAU", "usd", "", "US", "EURO", "USD ", "ＵＳＤ", "HRK"])
def test_a_code_that_is_no_current_currency_is_rejected(code: str) -> None:
    fields = fields_of(a_transfer()) | {"amount": {"amount_minor": 1, "currency": code}}

    message = refusal_of(MoneyTransferRequested, fields)

    assert message.startswith("amount.currency: takes the ISO 4217 code")


@pytest.mark.parametrize("code", ["1", "true", "null", '["USD"]'])
def test_a_currency_must_be_a_string(code: str) -> None:
    fields = json.dumps(fields_of(an_account())).replace('"USD"', code)

    assert "currency: " in refusal_of(AccountCreated, fields)


@pytest.mark.parametrize("text", ["", "-a", ".a", "a b", "a/b", "olena\n", "é", "a" * 65, "a\x00b"])
@pytest.mark.parametrize("field", ["user_id", "from_account_id", "to_account_id"])
def test_an_id_is_short_and_plain(field: str, text: str) -> None:
    message = refusal_of(MoneyTransferRequested, fields_of(a_transfer()) | {field: text})

    assert message.startswith(f"{field}: ")


def test_an_id_of_64_characters_is_accepted() -> None:
    assert AccountId("a" * 64) == "a" * 64


def test_a_rejection_never_repeats_what_was_sent() -> None:
    fields = fields_of(a_transfer()) | {"user_id": "secret person", "amount": {"amount_minor": 1, "currency": "SECRET"}}

    assert "secret" not in refusal_of(MoneyTransferRequested, fields).lower()


def test_an_extra_field_is_rejected_by_name() -> None:
    assert refusal_of(MoneyTransferRequested, fields_of(a_transfer()) | {"fee": 1}).startswith("fee: ")


def test_an_extra_field_inside_an_amount_is_rejected_by_name() -> None:
    fields = fields_of(a_transfer()) | {"amount": {"amount_minor": 1, "currency": "USD", "rate": 1}}

    assert refusal_of(MoneyTransferRequested, fields).startswith("amount.rate: ")


@pytest.mark.parametrize("field", sorted(MoneyTransferRequested.model_fields.keys() - {"arriving"}))
def test_a_missing_field_is_named(field: str) -> None:
    fields = fields_of(a_transfer())
    del fields[field]

    assert refusal_of(MoneyTransferRequested, fields).startswith(f"{field}: ")


def test_every_wrong_field_is_named_in_one_message() -> None:
    fields = fields_of(a_transfer()) | {"user_id": "", "amount": {"amount_minor": 0.5, "currency": "XXX"}}

    message = refusal_of(MoneyTransferRequested, fields)

    assert [field for field in ("user_id: ", "amount.amount_minor: ", "amount.currency: ") if field in message] == [
        "user_id: ",
        "amount.amount_minor: ",
        "amount.currency: ",
    ]


def test_text_that_no_database_can_store_is_rejected_by_name() -> None:
    assert refusal_of(AccountCreated, fields_of(an_account()) | {"name": "a\x00b"}).startswith("name: ")


@pytest.mark.parametrize("text", ["a\x00b", "a\ud800b"])
def test_text_that_no_database_can_store_is_rejected_in_python_too(text: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        an_account(name=text)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("name", ""),
        ("name", " \t "),
        ("name", "a" * 101),
        ("icon", ""),
        ("icon", "Wallet!"),
        ("icon", "a" * 65),
        ("colour", "red"),
        ("colour", "#12345"),
        ("colour", "#1234567"),
    ],
)
def test_names_icons_and_colours_must_have_their_format(field: str, text: str) -> None:
    assert refusal_of(AccountCreated, fields_of(an_account()) | {field: text}).startswith(f"{field}: ")


@pytest.mark.parametrize(("opening_balance", "overdraft_limit"), [(0, 0), (-500, 500), (-1, 500), (MONEY_LIMIT, 0)])
def test_an_account_may_open_down_to_its_overdraft_limit(opening_balance: int, overdraft_limit: int) -> None:
    event = an_account(opening_balance=opening_balance, overdraft_limit=overdraft_limit)

    assert event.opening_balance == opening_balance


@pytest.mark.parametrize(("opening_balance", "overdraft_limit"), [(-1, 0), (-501, 500)])
def test_an_account_may_not_open_below_its_overdraft_limit(opening_balance: int, overdraft_limit: int) -> None:
    fields = fields_of(an_account()) | {"opening_balance": opening_balance, "overdraft_limit": overdraft_limit}

    assert refusal_of(AccountCreated, fields) == "opening_balance: must not be below minus the overdraft limit"


def test_a_missing_overdraft_limit_is_zero() -> None:
    fields = fields_of(an_account())
    del fields["overdraft_limit"]

    assert parse(json.dumps(fields), AccountCreated).overdraft_limit == 0


@pytest.mark.parametrize("limit", [-1, MONEY_LIMIT + 1])
def test_an_overdraft_limit_is_not_negative_and_bounded(limit: int) -> None:
    fields = fields_of(an_account()) | {"overdraft_limit": limit}

    assert refusal_of(AccountCreated, fields).startswith("overdraft_limit: ")


def test_in_one_currency_the_arriving_amount_equals_the_amount() -> None:
    fields = fields_of(a_transfer()) | {"arriving": {"amount_minor": 1_049, "currency": "USD"}}

    assert refusal_of(MoneyTransferRequested, fields).startswith("arriving: must equal the withdrawn amount")


def test_in_another_currency_any_amount_may_arrive() -> None:
    assert a_transfer(amount=usd(1_050), arriving=eur(1)).arriving == eur(1)


def test_plain_text_becomes_an_id_and_a_currency_wherever_it_is_written() -> None:
    fields = {name: str(value) for name, value in a_transfer() if isinstance(value, str)}
    transfer = MoneyTransferRequested.model_validate({**fields, "amount": {"amount_minor": 1_050, "currency": "USD"}})

    assert transfer == a_transfer(amount=usd(1_050))
    assert [type(value) for value in (transfer.user_id, transfer.amount.currency)] == [UserId, Currency]
    user, account = cast(Any, "olena"), cast(Any, "olena-usd")  # a type checker asks for UserId("olena")
    assert withdraw(user, account, usd(1)) == withdraw(OLENA, OLENA_USD, usd(1))


@pytest.mark.parametrize("text", ["", "-", "a b", "a" * 65, b"olena", 7, None])
def test_plain_text_of_another_form_is_no_id(text: object) -> None:
    with pytest.raises(ValidationError, match="user_id"):
        a_transfer(user_id=text)


class Nickname(str):
    """A `str` that is neither plain text nor an id."""


@pytest.mark.parametrize("other", [UserId("olena"), Currency("USD"), Nickname("olena")])
def test_one_kind_of_id_is_not_another(other: str) -> None:
    with pytest.raises(ValidationError, match="from_account_id\n  Input should be an instance of AccountId"):
        a_transfer(from_account_id=other)


@pytest.mark.parametrize("rate", ["0.92", 0.92, 1, "1e3", "NaN", "-1", "", "0", "1" * 14])
def test_a_rate_is_sent_as_a_decimal_string(rate: JsonValue) -> None:
    event = MoneyTransferCompleted(
        user_id=UserId("olena"),
        from_account_id=AccountId("a"),
        to_account_id=AccountId("b"),
        left=usd(100),
        arrived=eur(92),
    )
    fields = fields_of(event) | {"rate": rate}

    if rate == "0.92":
        assert fields_of(parse(json.dumps(fields), MoneyTransferCompleted))["rate"] == "0.92"
    else:
        assert refusal_of(MoneyTransferCompleted, fields).startswith("rate: ")


def test_the_json_schema_describes_ids_and_currencies() -> None:
    schema = MoneyTransferRequested.model_json_schema()

    assert schema["properties"]["user_id"]["pattern"] == "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
    assert {USD, EUR} <= set(schema["$defs"]["Money"]["properties"]["currency"]["enum"])
