"""A relay's memory of rows that nobody knows is bounded, and waits as long as it promises."""

from datetime import timedelta

import pytest

from orchestrator.worker.relay import unknown_rows
from orchestrator.worker.relay.unknown_rows import MOST, UnknownRows

MINUTE = timedelta(minutes=1)


class Clock:
    """Stands in for the monotonic clock."""

    now = 1_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that the rows are met by."""
    clock = Clock()
    monkeypatch.setattr(unknown_rows, "monotonic", clock)
    return clock


def test_a_row_is_waited_for_from_its_first_meeting_on(clock: Clock) -> None:
    rows = UnknownRows(MINUTE)

    answers: list[bool] = []
    for _ in range(4):
        answers.append(rows.is_waited_for(1))
        clock.now += 25

    assert answers == [True, True, True, False]


def test_rows_that_other_relays_settled_are_forgotten_with_time(clock: Clock) -> None:
    rows = UnknownRows(MINUTE)
    for row in range(500):
        rows.is_waited_for(row)
    clock.now += 300
    rows.is_waited_for(0)
    clock.now += 301

    rows.is_waited_for(500)

    assert len(rows) == 2
    assert not rows.is_waited_for(0)


def test_no_more_than_so_many_are_remembered(clock: Clock) -> None:
    rows = UnknownRows(MINUTE)

    for row in range(MOST + 500):
        rows.is_waited_for(row)

    assert len(rows) == MOST


def test_one_that_has_left_the_outbox_is_forgotten_at_once(clock: Clock) -> None:
    rows = UnknownRows(MINUTE)
    rows.is_waited_for(1)

    rows.settle(1)

    assert len(rows) == 0
