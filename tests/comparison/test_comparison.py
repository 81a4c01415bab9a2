"""A small part of the comparison; `make reference EVENTS=100000` runs as much as you like."""

import pytest

from starter.tables import APPLICATION_TABLES
from tests.comparison.application import Application
from tests.comparison.machine import Comparison
from tests.comparison.run import play
from tests.comparison.translation import NOT_COMPARED, expected, translated
from tests.reference.events import CreateAccount, ResetMonth, TransactCategory
from tests.reference.ledger import Ledger


def test_the_application_does_what_the_model_does() -> None:
    """Random stories of two users."""
    with Application() as application:
        Comparison.application = application
        play(lives=6, seed=1)


def test_a_broken_rule_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the overdraft limit in the model, the comparison must find a difference."""
    monkeypatch.setattr(Ledger, "_debit", Ledger._credit)  # pyright: ignore[reportPrivateUsage]
    with Application() as application:
        Comparison.application = application
        with pytest.raises(AssertionError, match=r"only the model has|ended as"):
            play(lives=20, seed=1, shrink=False)


def test_every_column_is_compared_or_listed_with_a_reason() -> None:
    """Otherwise a new column might not be compared."""
    ledger = Ledger()
    ledger.tables.rates = {}
    ledger.set_up("olena", "USD", "uk-UA", {"pay": "income"})
    ledger.play("one", CreateAccount("olena", "olena-1", "USD", 1))
    ledger.play("two", TransactCategory("olena", "pay", "olena-1", 1, "USD"))
    ledger.play("three", ResetMonth("olena", "2026-01"))
    compared = {name: rows[0].keys() for name, rows in expected(ledger.tables).items() if rows}

    for table in APPLICATION_TABLES:
        if table.name in compared:
            known = compared[table.name] | NOT_COMPARED.get(table.name, {}).keys()
            assert {column.name for column in table.columns} == known, table.name
    assert {table.name for table in APPLICATION_TABLES} == expected(ledger.tables).keys()
    assert {"exchange_rate", "category_conversion"} == expected(ledger.tables).keys() - compared.keys()
    assert translated(ResetMonth("olena", "2026-01"), {})[0].__name__ == "MonthReset"
