"""The reference run: what an example's saga does without a fault, and the state before and after it.

Every cell is compared with it. A state consists of every row of the application's tables, and of whatever the example
observes outside of them.
"""

import inspect
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue
from sqlalchemy import MetaData, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.definition.atomic import names_in
from orchestrator.definition.catalog import Catalog
from orchestrator.external import ExternalOperation
from orchestrator.operation import Reversal
from orchestrator.protocol.commands import Outcome
from orchestrator.store.core.schema import metadata as engine_tables
from orchestrator.testing.example import Equality, Row


@dataclass(frozen=True)
class State:
    """Rows by table and key, in the form in which they are compared, and what was observed outside of the database."""

    tables: Mapping[str, Mapping[tuple[str, ...], Sequence[Row]]]
    """By table, then by the compared columns of the primary key. A key has several rows if it has no such column."""
    outside: Any = field(default=None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and not self.differences(other)

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.tables)))

    def differences(self, actual: "State") -> list[str]:
        """One sentence for each row or value that differs in `actual`."""
        sentences: list[str] = []
        for table in sorted(self.tables.keys() | actual.tables.keys()):
            old, new = self.tables.get(table, {}), actual.tables.get(table, {})
            for key in sorted(old.keys() | new.keys()):
                sentences += _row_differences(f"{table} {'/'.join(key)}".rstrip(), old.get(key, ()), new.get(key, ()))
        if comparable(self.outside) != comparable(actual.outside):
            sentences.append(f"outside: {self.outside!r} was expected, but {actual.outside!r} was found")
        return sentences


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceStep:
    """One step of the reference run."""

    number: int
    operation: str
    kind: str
    """The kind in the step's row: operation, query, atomic, external, sleep, wait or pivot."""
    reversal: Reversal | None
    """None if the step runs no operation."""
    arguments: dict[str, JsonValue]
    is_verified: bool = False
    """Whether it is an external operation with a verification."""

    @classmethod
    def of(cls, row: Any, catalog: Catalog) -> "ReferenceStep":
        """Read a step from its row."""
        arguments: dict[str, JsonValue] = json.loads(row.arguments)
        runs = all(name in catalog.operations for name in names_in(row.operation, arguments))
        operation = catalog.called(row.operation, arguments) if runs else None
        return cls(
            number=row.number,
            operation=row.operation,
            kind=row.kind,
            reversal=Reversal.IRREVERSIBLE if row.irreversible else operation.reversal if operation else None,
            is_verified=isinstance(operation, ExternalOperation) and operation.verify is not None,
            arguments=arguments,
        )

    @property
    def is_final(self) -> bool:
        """Whether the saga can no longer be undone once this step is done."""
        return self.reversal is Reversal.IRREVERSIBLE


@dataclass(kw_only=True)
class Reference:
    """A run without a fault.

    Attributes:
        before: the state when the event arrives.
        after: the state when its saga has ended.
        steps: in order.
        outcome: completed, or failed if the example expects a refusal.
        by_other: the state after the other saga alone.
        by_both: the two states after both sagas, one for each order in which they can run.
    """

    before: State
    after: State
    steps: tuple[ReferenceStep, ...]
    outcome: Outcome
    by_other: State | None = None
    by_both: tuple[State, ...] = field(default=())

    def pivot_before(self, number: int) -> ReferenceStep | None:
        """The first step that cannot be undone, if it comes before the step with this number."""
        return next((step for step in self.steps if step.is_final and step.number < number), None)


async def read_rows(
    connection: AsyncConnection, tables: Sequence[Table], equality: Equality
) -> dict[str, dict[tuple[str, ...], list[Row]]]:
    """Read the rows of tables, without the tables, rows and columns that are not compared."""
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
    """Tables other than the engine's, each after those that it refers to."""
    return [table for table in metadata.sorted_tables if table.name not in engine_tables.tables]


def comparable(value: object) -> str:
    """The text by which a value is compared, because 3 and 3.0 are equal in Python but differ in a row."""
    if isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True, default=repr)
    return repr(value)


async def call_hook(hook: Callable[[], Any] | None) -> Any:
    """Call an author's hook, if there is one, and await its result if that is awaitable."""
    result = None if hook is None else hook()
    return await result if inspect.isawaitable(result) else result


def _row_differences(name: str, old: Sequence[Row], new: Sequence[Row]) -> list[str]:
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
