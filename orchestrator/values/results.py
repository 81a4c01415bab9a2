"""An operation's result as JSON. A value that is not what the operation declares is its author's mistake."""

import inspect
import math
from typing import Any

from pydantic import JsonValue, ValidationError

from orchestrator.errors import AuthorsMistake, ResultInvalid, Unrecordable
from orchestrator.protocol.envelope import canonical
from orchestrator.protocol.unwrapping import describe
from orchestrator.values.signature import Signature


def result_as_json(operation: str, signature: Signature, returned: object) -> JsonValue:
    """What an operation returned, as JSON.

    Raises:
        ResultInvalid: it is not of the declared type, or would not be read back as it is. The message says what was
            returned and what is declared, and repeats no value: it may be personal.
    """
    try:
        return signature.dump_result(returned)
    except Unrecordable as fault:
        raise result_invalid(operation, signature, returned, fault) from fault
    except AuthorsMistake:
        raise
    except Exception as fault:  # pydantic's, or anything that a serializer of the author's raises
        raise result_invalid(operation, signature, returned, fault) from fault


def result_as_text(operation: str, signature: Signature, returned: object, result: JsonValue) -> str | None:
    """The same as the step's row keeps it; None of an operation that returns nothing.

    Raises:
        ResultInvalid: it has no JSON form.
    """
    try:
        return None if result is None else canonical(result)
    except (ValueError, TypeError, RecursionError) as fault:  # a type that takes any JSON value takes NaN, too
        raise result_invalid(operation, signature, returned, fault) from fault


def result_invalid(operation: str, signature: Signature, returned: object, fault: Exception) -> ResultInvalid:
    """The mistake, with what was returned and what is declared."""
    why = describe(fault) if isinstance(fault, ValidationError) else str(fault) or type(fault).__name__
    return ResultInvalid(
        f"{operation} returned {_shown(returned)} and declares -> {_declared(signature)} "
        f"({why}). Return what is declared, or declare what is returned"
    )


def _shown(returned: object) -> str:
    if returned is None:
        return "None"
    if isinstance(returned, float) and not math.isfinite(returned):
        return str(returned)
    return f"a value of type {type(returned).__qualname__}"


def _declared(signature: Signature) -> str:
    """The annotation as its author wrote it, if it can be had."""
    written: Any = getattr(signature.body, "__annotations__", {}).get("return", signature.hints.get("return"))
    return written if isinstance(written, str) else inspect.formatannotation(written)
