"""Which tables an operation touches: those whose classes its code names, also by way of functions of its own module."""

from types import CodeType, FunctionType
from typing import Any

from orchestrator.operation import Operation


def tables_of(operation: Operation[..., Any]) -> list[str]:
    """Names of the tables, sorted, those of its compensation among them."""
    found: set[str] = set()
    seen: set[Any] = set()
    _collect(operation.signature.body, found, seen)
    if operation.undo is not None:
        _collect(operation.undo.body, found, seen)
    return sorted(found)


def _collect(body: Any, found: set[str], seen: set[Any]) -> None:
    if not isinstance(body, FunctionType) or body in seen:
        return
    seen.add(body)
    for name in _names(body.__code__):
        value = body.__globals__.get(name)
        table = getattr(value, "__table__", None)
        if table is not None:
            found.add(str(table.name))
        elif isinstance(value, FunctionType) and value.__module__ == body.__module__:
            _collect(value, found, seen)


def _names(code: CodeType) -> set[str]:
    inner = (one for one in code.co_consts if isinstance(one, CodeType))
    return set(code.co_names).union(*(_names(one) for one in inner))
