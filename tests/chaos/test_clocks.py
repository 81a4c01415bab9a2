"""The workers of a chaos run have different clocks."""

from collections.abc import Generator
from datetime import UTC, datetime, timedelta

import pytest

from tests.chaos.clocks import KINDS, set_clock
from tests.wrong_clock import set_right, true_now


@pytest.fixture(autouse=True)
def set_right_afterwards() -> Generator[None]:
    """Set the test process's own clock right again."""
    yield
    set_right()


@pytest.mark.parametrize(("pid", "ahead"), [(4, 0), (5, 1), (6, -1), (7, 0)], ids=KINDS)
def test_a_workers_process_id_determines_its_clock(pid: int, ahead: int) -> None:
    assert set_clock(pid) == KINDS[pid % 4]

    assert abs(datetime.now(UTC) - true_now() - timedelta(hours=ahead)) < timedelta(minutes=1)
