"""The activity log's operations."""

from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy.exc import IntegrityError

from activities import activity_log
from activities.statements import RowGone
from orchestrator import Refused
from orchestrator.operation import OperationCall
from starter.invariants import differences
from starter.seed import COFFEE, drink_coffee
from starter.tables import ACTIVITY_RECORD
from tests.app.books import EVENT_TIME, Books, ImmediateSaga
from tests.app.samples import OLENA, OLENA_EUR, OLENA_USD, TARAS, eur, usd

RATE = Decimal("0.920000000000000001")

OF_A_TRANSFER = activity_log.record_transfer(OLENA, OLENA_USD, OLENA_EUR, usd(100), eur(92), RATE)
OF_A_CREATION = activity_log.record_account_created(OLENA, OLENA_USD, usd(-100))


async def test_a_transfers_record_keeps_both_amounts_and_the_rate_digit_for_digit(books: Books) -> None:
    record = await ImmediateSaga(books, "MoneyTransfer", event_id="transfer-1").execute(OF_A_TRANSFER)

    written = (await books.snapshot())["activity_record"][(record,)]
    assert {column: value for column, value in written.items() if value is not None} == {
        "id": record,
        "user_id": "olena",
        "kind": "money_transfer",
        "occurred_at": EVENT_TIME,
        "event_id": "transfer-1",
        "from_account_id": "olena-usd",
        "to_account_id": "olena-eur",
        "amount_out": 100,
        "currency_out": "USD",
        "amount_in": 92,
        "currency_in": "EUR",
        "rate": RATE,
    }


async def test_a_creations_record_keeps_the_opening_balance(books: Books) -> None:
    record = await books.run(OF_A_CREATION)

    written = (await books.snapshot())["activity_record"][(record,)]
    assert (written["kind"], written["account_id"], written["amount"], written["currency"]) == (
        "account_created",
        "olena-usd",
        -100,
        "USD",
    )


async def test_a_records_id_is_the_same_on_every_attempt_of_its_step(books: Books) -> None:
    await ImmediateSaga(books, "MoneyTransfer", event_id="transfer-1").execute(OF_A_TRANSFER)

    with pytest.raises(IntegrityError):
        await ImmediateSaga(books, "MoneyTransfer", event_id="transfer-1").execute(OF_A_TRANSFER)


@pytest.mark.parametrize("call", [OF_A_TRANSFER, OF_A_CREATION], ids=["transfer", "creation"])
async def test_erasing_deletes_only_the_steps_own_record(books: Books, call: OperationCall[UUID]) -> None:
    await books.run(call)
    before = await books.snapshot()
    record = await books.run(call)

    await books.undo(call, str(record))

    assert differences(before, await books.snapshot()) == []


async def test_erasing_does_not_touch_another_users_record(books: Books) -> None:
    record = await books.run(OF_A_TRANSFER)
    of_taras = activity_log.record_transfer(TARAS, OLENA_USD, OLENA_EUR, usd(100), eur(92), RATE)

    with pytest.raises(RowGone):
        await books.undo(of_taras, str(record))


async def test_the_database_rejects_a_transfers_record_without_its_amounts(books: Books) -> None:
    record = await books.run(OF_A_TRANSFER)

    with pytest.raises(IntegrityError, match="money_transfer_whole"):
        await books.write(ACTIVITY_RECORD.update().where(ACTIVITY_RECORD.c.id == record).values(currency_in=None))


async def test_undoing_a_removal_restores_the_row_that_was_deleted(books: Books) -> None:
    """The row may differ from the one that the claim saw."""
    async with books.database.transaction() as connection:
        await drink_coffee(connection)
    saga = ImmediateSaga(books, "ActivityRecordRemoval", event_id="removal-1")
    await saga.execute(activity_log.claim_removal(OLENA, COFFEE))
    await books.write(ACTIVITY_RECORD.update().where(ACTIVITY_RECORD.c.id == COFFEE).values(note="with milk"))
    before = await books.snapshot()

    await saga.execute(activity_log.remove_record(OLENA, COFFEE))
    await books.undo(*saga.done[-1])

    assert differences(before, await books.snapshot()) == []


async def test_a_record_that_another_saga_has_claimed_is_not_removed(books: Books) -> None:
    async with books.database.transaction() as connection:
        await drink_coffee(connection)
    await ImmediateSaga(books, "ActivityRecordRemoval", event_id="removal-1").execute(
        activity_log.claim_removal(OLENA, COFFEE)
    )
    before = await books.snapshot()

    with pytest.raises(Refused) as raised:
        await ImmediateSaga(books, "ActivityRecordRemoval", event_id="removal-2").execute(
            activity_log.remove_record(OLENA, COFFEE)
        )

    assert raised.value.code == "activity_log.not_found"
    assert differences(before, await books.snapshot()) == []
