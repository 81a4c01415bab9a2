"""Exchange rates from a file into the database: what is newer replaces what is older.

CSV with a header `base,quote,rate,as_of`, or a JSON array of objects with these fields; rates are text in both.
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
from orchestrator.event import Contract
from starter.process import GaveUp
from starter.tables import EXCHANGE_RATE


class DatedRate(Contract):
    """One line."""

    base: Currency
    """One unit of it"""
    quote: Currency
    """is worth so many of this one."""
    rate: Rate
    """How many."""
    as_of: date = Field(strict=False)
    """When that was so."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of a file."""

    written: int
    older: int
    """Left alone, as the database holds a newer one."""


_RATES = TypeAdapter(list[DatedRate])


def read_rates(file: Path) -> list[DatedRate]:
    """Every rate of a file; nothing of a file with a fault is taken.

    Raises:
        GaveUp: it cannot be read, or a line is wrong; the message names each.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            found: Any = json.load(opened) if file.suffix.lower() == ".json" else list(csv.DictReader(opened))
        rates = _RATES.validate_json(json.dumps(found))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as fault:
        raise GaveUp(f"{file} cannot be read: {fault}") from fault
    except ValidationError as fault:
        lines = [f"  {'.'.join(map(str, _numbered(one['loc'])))}: {one['msg']}" for one in fault.errors()]
        raise GaveUp(f"{file} is refused, and nothing of it was taken:\n" + "\n".join(lines)) from fault
    for number, one in enumerate(rates, start=1):
        if one.base == one.quote:
            raise GaveUp(f"{file} is refused, and nothing of it was taken:\n  {number}: {one.base} is one currency")
    return rates


async def load_rates(connection: AsyncConnection, rates: Iterable[DatedRate]) -> Loaded:
    """Write rates, in a transaction that the connection's owner commits."""
    written = older = 0
    for one in rates:
        pair = (EXCHANGE_RATE.c.base == one.base, EXCHANGE_RATE.c.quote == one.quote)
        known: date | None = await connection.scalar(select(EXCHANGE_RATE.c.as_of).where(*pair))
        if known is not None and known > one.as_of:
            older += 1
            continue
        values: dict[str, Decimal | date] = {"rate": one.rate, "as_of": one.as_of}
        if known is None:
            await connection.execute(EXCHANGE_RATE.insert().values(base=one.base, quote=one.quote, **values))
        else:
            await connection.execute(EXCHANGE_RATE.update().where(*pair).values(**values))
        written += 1
    return Loaded(written, older)


def _numbered(place: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return (place[0] + 1, *place[1:]) if place and isinstance(place[0], int) else place
