"""Describes an error in one line: its type, its message, and those of its causes.

The line appears in rows, failed events, `status`, the Web UI and the log. It contains no traceback, no SQL, and no
values that a library adds to its messages, because they may be personal data.
"""

import re
import traceback

from pydantic import ValidationError
from sqlalchemy.exc import StatementError

from orchestrator.errors import storable
from orchestrator.protocol.exception_groups import leaves
from orchestrator.protocol.messages.validation_errors import describe

_CAUSES = 3
"""The maximum number of causes that a line names."""
_OWN = 1_200
"""The maximum number of characters of one error's own message; the rest of `MESSAGE_LIMIT` is for its causes."""
_LEAVES = 3
"""How many errors of an exception group are shown."""
_FRAMES = 30
"""How many innermost frames of one error a traceback shows."""
_THEN = "which led to:"
_DRIVERS_CLASS = re.compile(r"\A<class '[\w.]+'>: ")
_QUERY_ARGUMENT = re.compile(r"(invalid input for query argument \$\d+): .* (\(.*\))\Z", re.DOTALL)


def error_text(fault: BaseException) -> str:
    """Describe an error, as in `ValueError: boom; caused by KeyError: 'x'`, in at most `MESSAGE_LIMIT` characters."""
    return storable(_joined(type(fault).__name__, error_message(fault)))


def error_message(fault: BaseException) -> str:
    """Describe an error as `error_text` does, but without its own type."""
    parts = [_own_message(fault)]
    known = {id(fault)}
    current = fault
    for _ in range(_CAUSES):
        following = _cause_of(current)
        if following is None or id(following[1]) in known:
            break
        relation, current = following
        known.add(id(current))
        message = _own_message(current)
        if not (message and message in parts[0]):  # the engine's own errors already quote their cause
            parts.append(f"{relation} {_joined(type(current).__name__, message)}")
    return storable("; ".join(part for part in parts if part))


def traceback_text(fault: BaseException) -> str:
    """Format the traceback of an error and of its causes, the root cause first, with messages as in `error_text`."""
    parts: list[str] = []
    known: set[int] = set()
    current: BaseException | None = fault
    while current is not None and id(current) not in known and len(parts) <= _CAUSES:
        known.add(id(current))
        inner = [leaf for leaf in leaves(current) if leaf is not current][:_LEAVES]
        parts.append("".join(_frames(error) for error in [*inner, current]))
        following = _cause_of(current)
        current = None if following is None else following[1]
    return f"\n{_THEN}\n".join(reversed(parts)).rstrip()


def _frames(fault: BaseException) -> str:
    frames = "".join(traceback.format_tb(fault.__traceback__)[-_FRAMES:])
    return f"Traceback (most recent call last):\n{frames}{_joined(type(fault).__name__, _own_message(fault))}\n"


def _cause_of(fault: BaseException) -> tuple[str, BaseException] | None:
    if isinstance(fault, StatementError):
        return None  # its cause is the same error as the driver raised it
    if fault.__cause__ is not None:
        return "caused by", fault.__cause__
    if fault.__context__ is not None and not fault.__suppress_context__:
        return "while handling", fault.__context__
    return None


def _own_message(fault: BaseException) -> str:
    if isinstance(fault, ValidationError):
        text = f"{fault.title}: {describe(fault)}"
    elif isinstance(fault, StatementError) and fault.orig is not None:
        # Only the first line: SQLAlchemy appends the statement, and PostgreSQL a DETAIL line with a row's values.
        driver = getattr(fault.orig, "__cause__", None) or fault.orig
        text = _DRIVERS_CLASS.sub("", (_str(driver).splitlines() or [""])[0])
        text = text or type(driver).__name__
    elif _is_group(fault):
        inner = list(leaves(fault))
        more = f"; and {len(inner) - _LEAVES} more" if len(inner) > _LEAVES else ""
        shown = "; ".join(_joined(type(leaf).__name__, _own_message(leaf)) for leaf in inner[:_LEAVES])
        text = f"{_str(fault)}: {shown}{more}"
    else:
        text = _str(fault)
    line = " ".join(_QUERY_ARGUMENT.sub(r"\1 \2", text).split())
    return line if len(line) <= _OWN else f"{line[: _OWN - 1]}…"


def _is_group(fault: BaseException) -> bool:
    return isinstance(fault, BaseExceptionGroup)


def _str(fault: BaseException) -> str:
    try:
        return str(fault)
    except Exception as second:
        return f"its message cannot be read ({type(second).__name__})"


def _joined(kind: str, message: str) -> str:
    return f"{kind}: {message}" if message else kind
