"""What an orchestrator can be refused with: the error codes that docstrings tell, of `handle` and of its operations.

An operation names them under `Raises:`, as in "Refused: `account.not_found`"; `handle` anywhere in its docstring.
"""

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

from orchestrator.definition.catalog import AnyOrchestrator
from orchestrator.operation import Operation

_CODE = re.compile(r"`([a-z][a-z0-9_]*\.[a-z][a-z0-9_]*)`")


def refusals_of(orchestrator: AnyOrchestrator, operations: Iterable[Operation[..., Any]]) -> list[str]:
    """Error codes, sorted, each once."""
    told = [_doc(orchestrator.handle), *(_doc(one.signature.body).partition("Raises:")[2] for one in operations)]
    return sorted({code for text in told for code in _CODE.findall(text)})


def _doc(of: Callable[..., Any]) -> str:
    return inspect.getdoc(of) or ""
