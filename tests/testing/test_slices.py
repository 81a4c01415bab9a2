"""Every item of a run is in exactly one of its slices."""

import pytest

from orchestrator.testing.slices import WHOLE, Slice


@pytest.mark.parametrize("count", [1, 3, 7, 20])
def test_each_item_is_in_exactly_one_slice(count: int) -> None:
    items = list(range(10))

    slices = [Slice.parse(f"{number}/{count}").of(items) for number in range(count)]

    assert sorted(item for part in slices for item in part) == items
    assert WHOLE.of(items) == items


def test_a_slice_number_above_the_count_wraps_around() -> None:
    assert Slice.parse("1307/6") == Slice.parse("5/6")


@pytest.mark.parametrize("text", ["", "3", "1/0", "-1/3", "1/3/5", "a/b"])
def test_an_invalid_slice_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a slice"):
        Slice.parse(text)
