"""Shortens Temporal's failures before they are sent, and formats received failures as one line.

The server stores the last failure of a retried activity only if it has at most 4 KiB. It replaces a larger one with the
sentence "Failure exceeds size limit.", so that the cause would not be visible while the activity is retried.
"""

from temporalio.api.enums.v1 import TimeoutType
from temporalio.api.failure.v1 import Failure
from temporalio.converter import DefaultFailureConverter, PayloadConverter
from temporalio.exceptions import FailureError

FAILURE_LIMIT = 3_500
"""The maximum size in bytes of a failure with its causes and traceback, without the reply that its details may
contain."""
_MESSAGE, _CAUSE_MESSAGE, _TYPE = 2_400, 300, 200
_CAUSES = 2


class BoundedFailureConverter(DefaultFailureConverter):
    """Temporal's own converter, except that it shortens every failure to a size that the server stores."""

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        """Convert an exception, and shorten the failure."""
        super().to_failure(exception, payload_converter, failure)
        is_engines = isinstance(exception, FailureError)
        if is_engines and not isinstance(exception.__cause__, FailureError):
            failure.ClearField("cause")  # the message names the cause, and the log contains its traceback
        _bound(failure, with_traceback=not is_engines)


def _bound(failure: Failure, *, with_traceback: bool) -> None:
    traceback = failure.stack_trace if with_traceback else ""
    current, limit = failure, _MESSAGE
    for depth in range(_CAUSES + 1):
        current.message = _cut(current.message, limit)
        current.stack_trace = ""
        if current.HasField("application_failure_info"):
            current.application_failure_info.type = _cut(current.application_failure_info.type, _TYPE)
        if not current.HasField("cause"):
            break
        if depth == _CAUSES:
            current.ClearField("cause")
            break
        current, limit = current.cause, _CAUSE_MESSAGE
    room = FAILURE_LIMIT - len(failure.message.encode()) - _CAUSES * (_CAUSE_MESSAGE + _TYPE)
    # The end of a traceback is kept, because it shows where the error was raised.
    failure.stack_trace = traceback.encode()[-room:].decode("utf-8", "ignore") if traceback and room > 0 else ""


def _cut(text: str, limit: int) -> str:
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return f"{encoded[: limit - 3].decode('utf-8', 'ignore')}…"


def failure_text(failure: Failure) -> str:
    """Describe a failure in one line, by the error's type and message or by the kind of timeout."""
    match failure.WhichOneof("failure_info"):
        case "activity_failure_info" if failure.HasField("cause"):
            return failure_text(failure.cause)
        case "timeout_failure_info":
            timeout = _TIMEOUTS.get(failure.timeout_failure_info.timeout_type, "no attempt ended in time")
            return f"{timeout}; before that {failure_text(failure.cause)}" if failure.HasField("cause") else timeout
        case "application_failure_info":
            kind = failure.application_failure_info.type
            message = " ".join(failure.message.split())
            if not kind or message.startswith(f"{kind}:"):
                return message
            return f"{kind}: {message}" if message else kind
        case _:
            return " ".join(failure.message.split())


def was_cut_off(failure: Failure) -> bool:
    """Whether an attempt timed out, which means that its worker has not reported how the attempt ended."""
    return failure.WhichOneof("failure_info") == "timeout_failure_info"


_TIMEOUTS = {
    TimeoutType.TIMEOUT_TYPE_HEARTBEAT: "the worker that ran it ended, or sent no heartbeat for too long",
    TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE: "an attempt took longer than its timeout",
}
