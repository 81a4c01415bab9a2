"""A step's deadline is measured with Temporal's times, whatever the worker's clock shows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest
from temporalio import activity
from temporalio.testing import ActivityEnvironment

from orchestrator.worker.activities import FEWEST_ATTEMPTS, _is_overdue  # pyright: ignore[reportPrivateUsage]
from tests.wrong_clock import wrong_clock

DEADLINE = timedelta(minutes=5)
SCHEDULED = datetime(2026, 5, 4, 12, tzinfo=UTC)


def attempt(after: timedelta, number: int = FEWEST_ATTEMPTS) -> activity.Info:
    """An attempt that began some time after its step was scheduled."""
    info = ActivityEnvironment.default_info()
    return replace(info, attempt=number, scheduled_time=SCHEDULED, started_time=SCHEDULED + after)


@pytest.mark.parametrize("ahead", [1, 0, -1], ids=["ahead", "right", "behind"])
def test_an_attempt_is_overdue_according_to_temporals_times(ahead: int) -> None:
    with wrong_clock(timedelta(hours=ahead)):
        assert not _is_overdue(attempt(DEADLINE - timedelta(seconds=10)), DEADLINE, monotonic())
        assert _is_overdue(attempt(DEADLINE + timedelta(seconds=1)), DEADLINE, monotonic())


def test_the_duration_of_the_attempt_itself_counts() -> None:
    began = monotonic() - 20

    assert _is_overdue(attempt(DEADLINE - timedelta(seconds=10)), DEADLINE, began)


def test_a_step_is_tried_a_few_times_even_if_its_deadline_is_over() -> None:
    assert not _is_overdue(attempt(2 * DEADLINE, FEWEST_ATTEMPTS - 1), DEADLINE, monotonic())
