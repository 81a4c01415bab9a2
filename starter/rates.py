"""Loads exchange rates from a file into the database, where a newer rate replaces an older one.

The file is CSV with the header `base,quote,rate,as_of`, or a JSON array of objects with these fields. Rates are text in
both forms.
"""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from events.money import Currency, Rate
from orchestrator.cli.embedded.script import GaveUp
from orchestrator.event import Contract
from starter.tables import EXCHANGE_RATE


class DatedRate(Contract):
    """One line of the file."""

    base: Currency
    """The currency of which one unit is converted."""
    quote: Currency
    """The currency in which the rate is expressed."""
    rate: Rate
    """How many units of `quote` one unit of `base` is worth."""
    as_of: date = Field(strict=False)
    """The day of the rate."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of loading a file."""

    written: int
    older: int
    """Rates that were not written, because the database has a newer one."""


_RATES = TypeAdapter(list[DatedRate])


def read_rates(file: Path) -> list[DatedRate]:
    """Return every rate of a file. If the file has a fault, no rate is returned.

    Raises:
        GaveUp: the file cannot be read, or a line is wrong; the message lists each fault.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows: Any = json.load(stream) if file.suffix.lower() == ".json" else list(csv.DictReader(stream))
        rates = _RATES.validate_json(json.dumps(rows))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as fault:
        raise GaveUp(f"{file} cannot be read: {fault}") from fault
    except ValidationError as fault:
        lines = [f"  {'.'.join(map(str, _numbered(error['loc'])))}: {error['msg']}" for error in fault.errors()]
        raise GaveUp(f"{file} is refused, and no rate was loaded:\n" + "\n".join(lines)) from fault
    for number, rate in enumerate(rates, start=1):
        if rate.base == rate.quote:
            raise GaveUp(f"{file} is refused, and no rate was loaded:\n  {number}: base and quote are both {rate.base}")
    return rates


async def load_rates(connection: AsyncConnection, rates: Iterable[DatedRate]) -> Loaded:
    """Write rates in a transaction, which the caller commits."""
    written = older = 0
    for rate in rates:
        pair = (EXCHANGE_RATE.c.base == rate.base, EXCHANGE_RATE.c.quote == rate.quote)
        known: date | None = await connection.scalar(select(EXCHANGE_RATE.c.as_of).where(*pair))
        if known is not None and known > rate.as_of:
            older += 1
            continue
        values: dict[str, Decimal | date] = {"rate": rate.rate, "as_of": rate.as_of}
        if known is None:
            await connection.execute(EXCHANGE_RATE.insert().values(base=rate.base, quote=rate.quote, **values))
        else:
            await connection.execute(EXCHANGE_RATE.update().where(*pair).values(**values))
        written += 1
    return Loaded(written, older)


def _numbered(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Count lines from 1."""
    return (location[0] + 1, *location[1:]) if location and isinstance(location[0], int) else location
