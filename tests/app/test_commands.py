"""SmartExpense's own commands, on a database in a temporary state folder."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from starter.commands import app
from tests.app.books import Books
from tests.app.samples_of_categories import ending, spending
from workflows.category_transaction import CategoryTransaction
from workflows.month_reset import MonthReset


class Shell:
    """Runs commands; a failed one shows its output."""

    def __call__(self, *words: str, fails: bool = False) -> str:
        result = CliRunner().invoke(app, list(words))
        assert (result.exit_code != 0) == fails, result.output
        return result.output


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """The commands on an empty database."""
    monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", f"sqlite:///{tmp_path / 'application.db'}")
    monkeypatch.setenv("COLUMNS", "120")
    return Shell()


def test_a_user_is_set_up_once_and_has_system_categories(shell: Shell) -> None:
    assert "is set up" in shell("users", "add", "nina", "--currency", "EUR")
    assert "nothing is changed" in shell("users", "add", "nina", "--currency", "USD")
    shell("users", "add-category", "nina", "nina-food", "Food", "expense")
    assert "is already used" in shell("users", "add-category", "nina", "nina-food", "Food", "expense", fails=True)
    assert "users add" in shell("users", "add-category", "ghost", "ghost-food", "Food", "expense", fails=True)

    listed = json.loads(shell("categories", "nina", "--json"))

    assert [(row["id"], row["currency"], row["value"], row["is_system"]) for row in listed] == [
        ("nina-food", "EUR", 0, False),
        ("nina-adjust-expense", "EUR", 0, True),
        ("nina-adjust-income", "EUR", 0, True),
    ]


@pytest.mark.parametrize("form", ["csv", "json"])
def test_rates_come_from_a_file_and_newer_rates_are_kept(shell: Shell, tmp_path: Path, form: str) -> None:
    shell("users", "add", "nina", "--currency", "EUR")
    file = tmp_path / f"rates.{form}"

    def load(*rates: tuple[str, str, str, str], fails: bool = False) -> str:
        names = ("base", "quote", "rate", "as_of")
        lines = [",".join(names), *(",".join(rate) for rate in rates)]
        objects = json.dumps([dict(zip(names, rate, strict=True)) for rate in rates])
        file.write_text("\n".join(lines) if form == "csv" else objects)
        return shell("rates", "load", str(file), fails=fails)

    assert "2 rates were written." in load(("USD", "EUR", "0.92", "2026-01-02"), ("EUR", "KWD", "0.3342", "2026-01-02"))
    assert "1 rates were written, 1 skipped" in load(
        ("USD", "EUR", "0.90", "2026-01-01"), ("EUR", "KWD", "0.3350", "2026-01-03")
    )
    refused = load(("USD", "EUR", "0.5", "2026-02-01"), ("USD", "XXX", "many", "soon"), fails=True)
    assert all(field in refused for field in ("2.quote", "2.rate", "2.as_of"))
    known = {rate["base"]: (rate["rate"], rate["as_of"]) for rate in json.loads(shell("rates", "show", "--json"))}
    assert known == {"USD": ("0.92", "2026-01-02"), "EUR": ("0.3350", "2026-01-03")}


@pytest.fixture
def kind() -> str:
    """SQLite only, because the commands are the same on both databases."""
    return "sqlite"


async def test_what_a_user_has_is_shown_as_text_and_as_json(
    books: Books, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", books.database.url.render_as_string(hide_password=False))
    await books.handle(CategoryTransaction, spending())
    await books.handle(MonthReset, ending())
    await books.handle(CategoryTransaction, spending())

    async def typed(*words: str) -> str:
        return await asyncio.to_thread(shell, *words)

    async def read_json(*words: str) -> Any:
        return json.loads(await typed(*words, "--json"))

    first, *_ = await read_json("accounts", "olena")
    assert (first["id"], first["balance"]) == ("olena-usd", 99_991_570)
    assert "$999,915.70" in await typed("accounts", "olena")
    records = await read_json("activity", "olena", "--limit", "2")
    assert [record["converted"] for record in records] == [174_290, 174_290]
    assert "olena-groceries market" in await typed("activity", "olena")
    assert (await read_json("month", "olena", "2026-01"))["month_balance"] == -174_290
    assert (await read_json("month", "olena"))["expense"] == 174_290
    shown = await typed("month", "olena", "2026-01")
    assert "█" * 30 in shown
    assert "full balance" in shown
    assert "was never set up" in await asyncio.to_thread(shell, "month", "ghost", fails=True)


def test_a_month_that_is_not_over_cannot_be_reset(shell: Shell) -> None:
    assert "is not over yet" in shell("month-reset", "olena", "9998-01", fails=True)
