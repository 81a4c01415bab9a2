"""The state that a saga leaves: every row of the application's tables, and whatever its author shows beside them."""

import inspect
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import MetaData, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.store.core.schema import metadata as engine_tables
from orchestrator.testing.example import Equality, Row

SHOWN = 8
"""Differences that a story tells; the others are counted."""


@dataclass(frozen=True)
class State:
    """Rows by table and key, as they are compared, and what was observed outside of the database."""

    tables: Mapping[str, Mapping[tuple[str, ...], Sequence[Row]]]
    """By table and by as much of the primary key as counts; more than one row where nothing of it does."""
    outside: Any = field(default=None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and not self.differences(other)

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.tables)))

    def differences(self, found: "State") -> list[str]:
        """What is otherwise in `found`, a sentence each row or value; an empty list if nothing is."""
        told: list[str] = []
        for table in sorted(self.tables.keys() | found.tables.keys()):
            old, new = self.tables.get(table, {}), found.tables.get(table, {})
            for key in sorted(old.keys() | new.keys()):
                told += _differing(f"{table} {'/'.join(key)}".rstrip(), old.get(key, ()), new.get(key, ()))
        if comparable(self.outside) != comparable(found.outside):
            told.append(f"outside: {self.outside!r} is expected and {found.outside!r} is found")
        return told


async def read_rows(
    connection: AsyncConnection, tables: Sequence[Table], equality: Equality
) -> dict[str, dict[tuple[str, ...], list[Row]]]:
    """The rows of tables as they stand, as far as they count."""
    read: dict[str, dict[tuple[str, ...], list[Row]]] = {}
    for table in tables:
        if table.name in equality.ignore_tables:
            continue
        ignored = set(equality.ignore_columns.get(table.name, ()))
        key_names = [column.name for column in table.primary_key.columns if column.name not in ignored]
        rows = read.setdefault(table.name, {})
        names = [column.name for column in table.columns]
        for values in await connection.execute(select(table)):
            row = {name: value for name, value in zip(names, values, strict=True) if name not in ignored}
            kept = row if equality.normalise is None else equality.normalise(table.name, row)
            if kept is not None:
                key = tuple(str(kept[name]) for name in key_names if name in kept)
                rows.setdefault(key, []).append(kept)
    return read


def application_tables(metadata: MetaData) -> list[Table]:
    """Tables that are not the engine's, those that others refer to first."""
    return [table for table in metadata.sorted_tables if table.name not in engine_tables.tables]


def comparable(value: object) -> str:
    """A value as it is compared: by its text, since 3 and 3.0 are equal to Python and not the same in a row."""
    if isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True, default=repr)
    return repr(value)


async def called(hook: Callable[[], Any] | None) -> Any:
    """What an author's hook answers, which may be async."""
    answer = None if hook is None else hook()
    return await answer if inspect.isawaitable(answer) else answer


def _differing(name: str, old: Sequence[Row], new: Sequence[Row]) -> list[str]:
    if len(old) == len(new) == 1:
        [was], [now] = old, new
        return [
            f"{name}: {column} is {now.get(column)!r} and must be {was.get(column)!r}"
            for column in sorted(was.keys() | now.keys())
            if comparable(was.get(column)) != comparable(now.get(column))
        ]
    counted_old, counted_new = Counter(map(_text, old)), Counter(map(_text, new))
    missing = [f"{name} is missing: {row}" for row in (counted_old - counted_new).elements()]
    return missing + [f"{name} must not be there: {row}" for row in (counted_new - counted_old).elements()]


def _text(row: Row) -> str:
    return "{" + ", ".join(f"{name}={comparable(row[name])}" for name in sorted(row)) + "}"
