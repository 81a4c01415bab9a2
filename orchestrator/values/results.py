"""Converts an operation's result to JSON. A value of another type than the declared one is the author's mistake."""

import inspect
import math
from typing import Any

from pydantic import JsonValue, ValidationError

from orchestrator.errors import AuthorsMistake, ResultInvalid, Unrecordable
from orchestrator.protocol.messages.envelope import canonical
from orchestrator.protocol.messages.validation_errors import describe
from orchestrator.values.signature import Signature


def result_as_json(operation: str, signature: Signature, returned: object) -> JsonValue:
    """Return an operation's result as JSON.

    Raises:
        ResultInvalid: it is not of the declared type, or would not be read back unchanged. The message names the
            returned and the declared type, but contains no value, because a value may be personal.
    """
    try:
        return signature.dump_result(returned)
    except Unrecordable as fault:
        raise result_invalid(operation, signature, returned, fault) from fault
    except AuthorsMistake:
        raise
    except Exception as fault:  # pydantic's error, or any that the author's serializer raises
        raise result_invalid(operation, signature, returned, fault) from fault


def result_as_text(operation: str, signature: Signature, returned: object, result: JsonValue) -> str | None:
    """Return a result as the text for the step's row, or None if the operation returns nothing.

    Raises:
        ResultInvalid: the result has no JSON form.
    """
    try:
        return None if result is None else canonical(result)
    except (ValueError, TypeError, RecursionError) as fault:  # a type that accepts any JSON value also accepts NaN
        raise result_invalid(operation, signature, returned, fault) from fault


def result_invalid(operation: str, signature: Signature, returned: object, fault: Exception) -> ResultInvalid:
    """Return the error, which names the returned and the declared type."""
    why = describe(fault) if isinstance(fault, ValidationError) else str(fault) or type(fault).__name__
    return ResultInvalid(
        f"{operation} returned {_shown(returned)}, but declares -> {_declared(signature)} "
        f"({why}). Return a value of the declared type, or declare the type that is returned"
    )


def _shown(returned: object) -> str:
    if returned is None:
        return "None"
    if isinstance(returned, float) and not math.isfinite(returned):
        return str(returned)
    return f"a value of type {type(returned).__qualname__}"


def _declared(signature: Signature) -> str:
    """Return the annotation as its author wrote it, if it is available."""
    written: Any = getattr(signature.body, "__annotations__", {}).get("return", signature.hints.get("return"))
    return written if isinstance(written, str) else inspect.formatannotation(written)
