"""What the bus refuses of a payload as a person types it, before anything is sent."""

import pytest

from orchestrator import EventRejected
from orchestrator.client.validation import read_event
from tests.house import CATALOG


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ('{"source": "a", "target": "b", "coins": 1, "coins": 2}', "coins: the field is given twice"),
        ('{"source": "a", "target": "b", "coins": NaN}', "coins"),
        ('{"source": "a"', "JSON"),
        (b"\xff\xfe", "JSON"),
    ],
)
def test_what_is_no_plain_json_is_refused_with_its_reason(payload: str | bytes, told: str) -> None:
    with pytest.raises(EventRejected, match=told) as refused:
        read_event(CATALOG, "COINS_MOVE_REQUESTED", payload)

    assert refused.value.code == "event.invalid"
