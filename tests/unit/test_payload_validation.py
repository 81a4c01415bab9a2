"""The bus refuses an invalid payload before anything is sent."""

import pytest

from orchestrator import EventRejected
from orchestrator.client.publishing.event_checks import read_event
from tests.house import CATALOG


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ('{"source": "a", "target": "b", "coins": 1, "coins": 2}', "coins: the field is given twice"),
        ('{"source": "a", "target": "b", "coins": NaN}', "coins"),
        ('{"source": "a"', "JSON"),
        (b"\xff\xfe", "JSON"),
    ],
)
def test_an_invalid_json_payload_is_refused_with_the_reason(payload: str | bytes, message: str) -> None:
    with pytest.raises(EventRejected, match=message) as refused:
        read_event(CATALOG, "COINS_MOVE_REQUESTED", payload)

    assert refused.value.code == "event.invalid"
