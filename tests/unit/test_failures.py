"""Temporal failures of the engine are small enough for the server to keep, and are read as one line."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from temporalio.api.enums.v1 import TimeoutType
from temporalio.api.failure.v1 import Failure
from temporalio.exceptions import ApplicationError
from temporalio.exceptions import TimeoutError as TimedOut

from orchestrator.store.core.error_text import error_message
from orchestrator.worker.attempt_failure import failure_of
from orchestrator.workflow.converter import worker_data_converter
from orchestrator.workflow.failures import FAILURE_LIMIT, failure_text, was_cut_off

KEPT = 4 * 1024
"""How many bytes of a pending activity's last failure the server keeps."""


def raised(fault: Exception) -> Exception:
    """The error with the traceback of a deep call stack."""

    def deeper(depth: int) -> None:
        if depth == 0:
            raise fault
        deeper(depth - 1)

    try:
        deeper(200)
    except Exception as error:
        return error
    raise AssertionError


def chained(*faults: Exception) -> Exception:
    """The first error, where each error is caused by the next one."""
    for fault, cause in pairwise(faults):
        fault.__cause__ = raised(cause)
    return raised(faults[0])


async def carried(fault: BaseException) -> Failure:
    """The failure that is sent to the server."""
    failure = Failure()
    await worker_data_converter.encode_failure(fault, failure)
    return failure


LONG: list[Callable[[], Exception]] = [
    lambda: chained(ValueError("boom " * 10_000)),
    lambda: chained(ValueError("\U0001f4b6" * 10_000)),
    lambda: chained(ValueError("boom"), KeyError("x" * 10_000), RuntimeError("y" * 10_000), OSError("z" * 10_000)),
    lambda: chained(*[ValueError(f"{number} " + "€" * 1_000) for number in range(50)]),
    lambda: chained(type("T" * 5_000, (Exception,), {})("boom")),
    lambda: ExceptionGroup("tasks", [raised(ValueError("boom" * 3_000)) for _ in range(100)]),
]


@pytest.mark.parametrize("fault", LONG)
async def test_a_failed_attempt_is_small_enough_for_the_server_to_keep(fault: Callable[[], Exception]) -> None:
    failure = await carried(failure_of(fault(), final=False))

    assert failure.ByteSize() < FAILURE_LIMIT < KEPT
    assert not failure.stack_trace
    assert not failure.HasField("cause")
    assert failure.message
    failure.message.encode()


@pytest.mark.parametrize("fault", LONG)
async def test_any_other_error_is_small_enough_for_the_server_to_keep(fault: Callable[[], Exception]) -> None:
    failure = await carried(fault())

    assert failure.ByteSize() < KEPT


async def test_an_error_of_handle_keeps_the_end_of_its_traceback() -> None:
    failure = await carried(raised(ValueError("boom")))

    assert "raise fault" in failure.stack_trace


async def test_a_failed_attempt_names_its_error_and_the_causes() -> None:
    failure = await carried(failure_of(chained(ValueError("boom"), KeyError("x")), final=True))

    assert failure_text(failure) == "ValueError: boom; caused by KeyError: 'x'"
    assert failure.application_failure_info.non_retryable


async def test_an_attempt_that_timed_out_is_described_as_cut_off() -> None:
    failure = Failure(message="activity Heartbeat timeout")
    failure.timeout_failure_info.timeout_type = TimeoutType.TIMEOUT_TYPE_HEARTBEAT
    failure.cause.CopyFrom(await carried(failure_of(ValueError("boom"), final=False)))

    assert was_cut_off(failure)
    assert failure_text(failure).endswith("sent no heartbeat for too long; before that ValueError: boom")


async def test_the_details_of_a_failure_are_not_truncated() -> None:
    failure = await carried(ApplicationError("no", {"message": "n" * 3_000}, type="box.closed"))

    assert len(failure.application_failure_info.details.payloads[0].data) > 3_000


async def test_a_failure_caused_by_a_failure_keeps_its_cause() -> None:
    outer = ApplicationError("outer", type="Outer")
    outer.__cause__ = TimedOut("late", type=None, last_heartbeat_details=[])

    assert (await carried(outer)).cause.message == "late"


def test_a_wrapping_error_does_not_repeat_the_message_of_its_cause() -> None:
    inner = ValueError("boom")
    outer = RuntimeError("it failed: boom")
    outer.__cause__ = inner

    assert error_message(outer) == "it failed: boom"
