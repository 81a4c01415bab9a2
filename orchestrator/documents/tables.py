"""Finds the tables that an operation uses: its code, or a function that it calls, refers to their classes.

Only functions of the operation's own module are followed.
"""

from types import CodeType, FunctionType
from typing import Any

from orchestrator.operation import Operation


def tables_of(operation: Operation[..., Any]) -> list[str]:
    """Return the sorted names of the tables that the operation or its compensation uses."""
    tables: set[str] = set()
    seen: set[Any] = set()
    _collect(operation.signature.body, tables, seen)
    if operation.undo is not None:
        _collect(operation.undo.body, tables, seen)
    return sorted(tables)


def _collect(body: Any, tables: set[str], seen: set[Any]) -> None:
    if not isinstance(body, FunctionType) or body in seen:
        return
    seen.add(body)
    for name in _names(body.__code__):
        value = body.__globals__.get(name)
        table = getattr(value, "__table__", None)
        if table is not None:
            tables.add(str(table.name))
        elif isinstance(value, FunctionType) and value.__module__ == body.__module__:
            _collect(value, tables, seen)


def _names(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))
