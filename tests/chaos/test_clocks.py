"""Workers of chaos have different clocks."""

from collections.abc import Generator
from datetime import UTC, datetime, timedelta

import pytest

from tests.chaos.clocks import KINDS, set_clock
from tests.wrong_clock import set_right, true_now


@pytest.fixture(autouse=True)
def right_again() -> Generator[None]:
    """The test process's own clock is right afterwards."""
    yield
    set_right()


@pytest.mark.parametrize(("pid", "ahead"), [(4, 0), (5, 1), (6, -1), (7, 0)], ids=KINDS)
def test_its_process_id_decides_which_clock_a_worker_has(pid: int, ahead: int) -> None:
    assert set_clock(pid) == KINDS[pid % 4]

    assert abs(datetime.now(UTC) - true_now() - timedelta(hours=ahead)) < timedelta(minutes=1)
