"""The error codes with which an orchestrator can be refused, read from the docstrings of `handle` and its operations.

An operation lists its codes under `Raises:`, for example "Refused: `account.not_found`". `handle` may mention them
anywhere in its docstring.
"""

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

from orchestrator.definition.catalog import AnyOrchestrator
from orchestrator.operation import Operation

_CODE = re.compile(r"`([a-z][a-z0-9_]*\.[a-z][a-z0-9_]*)`")


def refusals_of(orchestrator: AnyOrchestrator, operations: Iterable[Operation[..., Any]]) -> list[str]:
    """Return the sorted error codes, without duplicates."""
    documented = (_doc(operation.signature.body).partition("Raises:")[2] for operation in operations)
    return sorted({code for text in (_doc(orchestrator.handle), *documented) for code in _CODE.findall(text)})


def _doc(function: Callable[..., Any]) -> str:
    return inspect.getdoc(function) or ""
