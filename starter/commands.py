"""SmartExpense's commands: they show a user's data, set users up, load rates, and schedule month resets.

Add a command as a function here. The engine's own commands are listed by `orchestrator --help`.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from events.category import BudgetType
from events.identity import CategoryId, UserId
from events.money import Currency, Money
from events.month import Month
from events.snapshot import MonthResetCompleted, MonthResetRequested
from orchestrator.cli.embedded.script import GaveUp, exit_code_of
from orchestrator.client import EventBus, connect_temporal
from orchestrator.errors import OrchestratorError
from orchestrator.protocol.messages.envelope import canonical
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from starter import reading
from starter.rates import load_rates, read_rates
from starter.schedules import make_schedule, schedules
from starter.tables import EXCHANGE_RATE, create_tables
from starter.users import add_category, add_user

R = TypeVar("R")
_BAR, _SHORTEST_BAR = 30, 5
"""The length of the longest bar in characters, in a wide and in a narrow terminal."""
_WIDE, _NARROW = 100, 45
_UNBROKEN = ("balance", "overdraft", "value", "amount", "is", "")
_TO_COPY = ("record", "account", "category", "when")

app = typer.Typer(
    help="Show and set up SmartExpense's data.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
users = typer.Typer(help="Set users up.", no_args_is_help=True)
rates = typer.Typer(help="Exchange rates.", no_args_is_help=True)
months = typer.Typer(help="Schedules that reset each user's month on the 1st.", no_args_is_help=True)
app.add_typer(users, name="users")
app.add_typer(rates, name="rates")
app.add_typer(months, name="schedules")


def _identity(kind: Callable[[str], R]) -> Any:
    def parse(text: str) -> R:
        try:
            return kind(text)
        except ValueError as fault:
            raise typer.BadParameter(str(fault)) from fault

    return parse


User = Annotated[UserId, typer.Argument(parser=_identity(UserId), metavar="USER", help="The user's id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, with amounts in minor units.")]


@app.command()
def accounts(user: User, as_json: AsJson = False) -> None:
    """Show a user's accounts."""
    rows = _run(_reading(lambda connection: reading.accounts_of(connection, user)))
    if as_json:
        return _print_json(rows)
    table = _table("account", "name", "balance", "overdraft")
    for account in rows:
        code = account["currency"]
        limit = _shown(account["overdraft_limit"], code) + (", exceeded" if account["is_over_limit"] else "")
        table.add_row(account["id"], account["name"], _shown(account["balance"], code), limit)
    return _print(table if rows else f"{user} has no accounts.")


@app.command()
def categories(user: User, as_json: AsJson = False) -> None:
    """Show a user's categories with their values since the last reset."""
    rows = _run(_reading(lambda connection: reading.categories_of(connection, user)))
    if as_json:
        return _print_json(rows)
    table = _table("category", "name", "type", "value")
    for row in rows:
        table.add_row(row["id"], row["name"], row["budget_type"], _shown(row["value"], row["currency"]))
    return _print(table if rows else f"{user} has no categories. `users add` sets a user up.")


@app.command()
def activity(
    user: User,
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The number of records, the latest first.")] = 50,
) -> None:
    """Show a user's activity log."""
    rows = _run(_reading(lambda connection: reading.activity_of(connection, user, limit)))
    if as_json:
        return _print_json(rows)
    table = _table("record", "when", "what", "amount")
    when = "%Y-%m-%d %H:%M" if _console().width >= _WIDE else "%Y-%m-%d"
    for record in rows:
        table.add_row(str(record["id"]), f"{record['occurred_at']:{when}}", *_describe(record))
    return _print(table if rows else f"The activity log of {user} is empty.")


@app.command()
def month(
    user: User,
    which: Annotated[
        Month | None,
        typer.Argument(
            parser=_identity(Month), metavar="MONTH", help="A month that has ended; by default the current one."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a month's categories, each with a bar."""
    shown = _run(_reading(lambda connection: reading.month_of(connection, user, which)))
    if shown is None:
        raise _gave_up(
            f"The month {which} of {user} was never saved."
            if which
            else f"{user} was never set up. `users add` sets a user up."
        )
    if as_json:
        return _print_json(shown)
    longest = max((abs(row["value"]) for row in shown["categories"]), default=0)
    values = [_shown(row["value"], shown["currency"]) for row in shown["categories"]]
    beside = max(map(len, values), default=0) + max((len(row["name"]) for row in shown["categories"]), default=0) + 15
    most = max(_SHORTEST_BAR, min(_BAR, _console().width - beside))
    with_type = _console().width >= _NARROW  # Otherwise only the bar's colour shows the type.
    columns = ("category", "type", "", "value") if with_type else ("category", "", "value")
    table = _table(*columns, title=f"{user}, {which or 'since the last reset'}")
    for row, value in zip(shown["categories"], values, strict=True):
        length = abs(row["value"]) * most // longest if longest else 0
        colour = "green" if row["budget_type"] == BudgetType.INCOME else "red"
        bar = Text("█" * max(length, 1 if row["value"] else 0), colour)
        table.add_row(row["name"], *([row["budget_type"]] if with_type else []), bar, value)
    _print(table)
    for name in ("income", "expense", "month_balance", "full_balance"):
        if name in shown:
            _print(f"{name.replace('_', ' '):>14}  {_shown(shown[name], shown['currency'])}")
    return None


@app.command("month-reset")
def month_reset(
    user: User,
    which: Annotated[
        Month | None,
        typer.Argument(
            parser=_identity(Month), metavar="MONTH", help="A month that has ended; by default the last one."
        ),
    ] = None,
    time_zone: Annotated[str, typer.Option(help="The user's time zone.")] = "UTC",
) -> None:
    """Reset a month by hand. A month that has already been reset is not changed."""
    this = Month.of(datetime.now(UTC).astimezone(ZoneInfo(time_zone)))
    wanted = which or this.later(-1)
    if wanted >= this:
        raise _gave_up(f"{wanted} is not over yet. Transactions after its reset would count towards the next month.")

    async def reset() -> bool:
        async with EventBus.connect(Settings()) as bus:
            event = MonthResetRequested(user_id=user, month=wanted)
            (handle,) = await bus.publish(event, event_id=MonthResetRequested.event_id_of(user, wanted))
            outcome = await handle.outcome()
        if outcome.error_code:
            raise GaveUp(f"{wanted} was not reset: {outcome.error_code}: {outcome.message}")
        return MonthResetCompleted.model_validate_json(canonical(outcome.event["data"])).was_due

    result = " was reset." if _run(reset()) else ", or a later month, had already been reset."
    _print(f"{wanted} of {user}{result}")


@users.command("add")
def users_add(
    user: User,
    currency: Annotated[
        Currency, typer.Option(parser=_identity(Currency), metavar="CODE", help="The display currency.")
    ],
    language: Annotated[str, typer.Option(help="A language such as uk-UA.")] = "en-US",
) -> None:
    """Set a user up, with settings and the two categories for balance adjustments."""
    is_new = _run(_writing(lambda connection: add_user(connection, user, currency, language)))
    _print(f"{user} is set up." if is_new else f"{user} had already been set up; nothing is changed.")


@users.command("add-category")
def users_add_category(
    user: User,
    category: Annotated[CategoryId, typer.Argument(parser=_identity(CategoryId), metavar="ID")],
    name: str,
    budget_type: BudgetType,
    icon: str = "tag",
    colour: str = "#868e96",
) -> None:
    """Add a category of a user."""

    async def add(connection: AsyncConnection) -> bool:
        try:
            return await add_category(connection, user, category, name, budget_type, icon=icon, colour=colour)
        except LookupError as fault:
            raise GaveUp(str(fault)) from fault

    if not _run(_writing(add)):
        raise _gave_up(f"The id {category} is already used.")
    _print(f"{user} has the category {category}.")


@rates.command("load")
def rates_load(file: Path) -> None:
    """Load rates from a CSV file (base,quote,rate,as_of) or a JSON array of such objects. Newer rates are kept."""

    async def load(connection: AsyncConnection) -> str:
        loaded = await load_rates(connection, read_rates(file))
        skipped = f", {loaded.older} skipped because newer ones are stored" if loaded.older else ""
        return f"{loaded.written} rates were written{skipped}."

    _print(_run(_writing(load)))


@rates.command("show")
def rates_show(as_json: AsJson = False) -> None:
    """Show the stored rates."""

    async def read(connection: AsyncConnection) -> list[dict[str, Any]]:
        ordered = select(EXCHANGE_RATE).order_by(EXCHANGE_RATE.c.base, EXCHANGE_RATE.c.quote)
        return [dict(row) for row in (await connection.execute(ordered)).mappings()]

    rows = _run(_reading(read))
    if as_json:
        return _print_json(rows)
    table = _table("one", "is", "", "as of")
    for rate in rows:
        table.add_row(rate["base"], f"{rate['rate']:f}", rate["quote"], str(rate["as_of"]))
    return _print(table if rows else "There are no rates. `rates load FILE` loads some.")


@months.command("make")
def schedules_make(
    user: User, time_zone: Annotated[str, typer.Option(help="The user's time zone, such as Europe/Kyiv.")]
) -> None:
    """Schedule the reset of a user's months on the 1st. Repeating the command changes the time zone."""

    async def make() -> bool:
        settings = Settings()
        return await make_schedule(await connect_temporal(settings), user, time_zone, settings.task_queue)

    _print(f"{user}'s schedule was {'created' if _run(make()) else 'changed'}.")


@months.command("show")
def schedules_show(as_json: AsJson = False) -> None:
    """Show the schedules with their next run."""

    async def read() -> list[Any]:
        return await schedules(await connect_temporal(Settings()))

    rows = _run(read())
    if as_json:
        return _print_json([{"user": row.user, "time_zone": row.time_zone, "next_at": row.next_at} for row in rows])
    table = _table("user", "time zone", "next")
    for row in rows:
        table.add_row(row.user, row.time_zone, f"{row.next_at:%Y-%m-%d %H:%M} UTC" if row.next_at else "paused")
    return _print(table if rows else "There are no schedules. `schedules make USER --time-zone ZONE` creates one.")


def _reading(read: Callable[[AsyncConnection], Coroutine[Any, Any, R]]) -> Coroutine[Any, Any, R]:
    async def reads() -> R:
        database = Database(Settings().resolved_database_url, pool_size=1)
        try:
            async with database.reading() as connection:
                return await read(connection)
        finally:
            await database.close()

    return reads()


def _writing(write: Callable[[AsyncConnection], Coroutine[Any, Any, R]]) -> Coroutine[Any, Any, R]:
    async def writes() -> R:
        database = Database(Settings().resolved_database_url, pool_size=1)
        try:
            async with database.transaction() as connection:
                await create_tables(connection)
                return await write(connection)
        finally:
            await database.close()

    return writes()


def _run(work: Coroutine[Any, Any, R]) -> R:
    try:
        return asyncio.run(work)
    except OrchestratorError as fault:
        typer.echo(str(fault), err=True)
        raise typer.Exit(exit_code_of(fault)) from fault
    except GaveUp as fault:
        raise _gave_up(str(fault)) from fault


def _gave_up(text: str) -> typer.Exit:
    typer.echo(text, err=True)
    return typer.Exit(1)


def _describe(record: reading.Row) -> tuple[str, str]:
    """Return a record in words, and its amount."""
    match record["kind"]:
        case "category_value_change":
            sign = "" if record["budget_type"] == BudgetType.INCOME else "-"
            what = " ".join(filter(None, (record["category_id"], record["note"])))
            return what, f"{sign}{_shown(record['amount'], record['currency'])}"
        case "money_transfer":
            debit, credit = (_shown(record[f"amount_{side}"], record[f"currency_{side}"]) for side in ("out", "in"))
            amounts = debit if debit == credit else f"{debit} as {credit}"
            return f"{record['from_account_id']} to {record['to_account_id']}", amounts
        case "account_created":
            return f"account {record['account_id']}", _shown(record["amount"], record["currency"])
        case "categories_reset":
            return f"{record['budget_type']} categories reset", ""
        case _:
            return f"{record['currency_from']} to {record['currency_to']} at {record['rate']:f}", ""


def _shown(amount: int, code: str) -> str:
    return Money.model_construct(amount_minor=amount, currency=Currency(code)).shown()


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(box=None, header_style="dim", title=title, title_justify="left")
    for column in columns:
        is_number = column in ("balance", "overdraft", "value", "amount", "is")
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    return table


def _console() -> Console:
    return Console(highlight=False, emoji=False, markup=False)


def _print(what: Table | str) -> None:
    console = _console()
    if isinstance(what, Table):
        for column in what.columns:
            # Amounts, bars and ids to copy are never wrapped; names and other text are.
            cells = [*map(str, column.cells)]
            if column.header in _UNBROKEN:
                column.no_wrap, column.min_width = True, max(map(len, cells), default=0)
            elif column.header in _TO_COPY:
                column.no_wrap = sum(map(len, cells[1:2])) * 2 <= console.width
    console.print(what, soft_wrap=isinstance(what, str))


def _print_json(value: object) -> None:
    def plain(item: object) -> str:
        match item:
            case Decimal():
                return f"{item:f}"
            case UUID():
                return str(item)
            case date():
                return item.isoformat()
            case _:
                raise TypeError(f"a {type(item).__name__} cannot be written as JSON")

    typer.echo(json.dumps(value, default=plain, ensure_ascii=False, indent=2))
