"""A relay's memory of rows of unknown types is bounded, and it waits for them as long as promised."""

from datetime import timedelta

import pytest

from orchestrator.worker.relay import unknown_rows
from orchestrator.worker.relay.unknown_rows import MOST, UnknownRows

MINUTE = timedelta(minutes=1)


class Clock:
    """A stand-in for the monotonic clock."""

    now = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the relay's memory."""
    clock = Clock()
    monkeypatch.setattr(unknown_rows, "monotonic", clock)
    return clock


def test_a_row_is_waited_for_from_the_first_time_it_is_seen(clock: Clock) -> None:
    rows = UnknownRows(MINUTE)

    answers: list[bool] = []
    for _ in range(4):
        answers.append(rows.is_waited_for(1))
        clock.now += 25

    assert answers == [True, True, True, False]


def test_rows_that_other_relays_have_settled_are_forgotten_in_time(clock: Clock) -> None:
    rows = UnknownRows(MINUTE)
    for row in range(500):
        rows.is_waited_for(row)
    clock.now += 300
    rows.is_waited_for(0)
    clock.now += 301

    rows.is_waited_for(500)

    assert len(rows) == 2
    assert not rows.is_waited_for(0)


def test_the_number_of_remembered_rows_is_bounded(clock: Clock) -> None:
    rows = UnknownRows(MINUTE)

    for row in range(MOST + 500):
        rows.is_waited_for(row)

    assert len(rows) == MOST


def test_a_settled_row_is_forgotten_at_once(clock: Clock) -> None:
    rows = UnknownRows(MINUTE)
    rows.is_waited_for(1)

    rows.settle(1)

    assert len(rows) == 0
