"""Events whose numbers a float rounds: refused where they are new, taken as before where a history has taken them."""

from decimal import Decimal

import pytest
from temporalio import workflow

from orchestrator import DomainEvent
from orchestrator.protocol.envelope import Envelope, UnreadableEvent, read, wrap
from orchestrator.protocol.unwrapping import unwrap
from orchestrator.workflow.exact_numbers import unwrap_in_execution


class PriceSet(DomainEvent):
    """With a number that JSON can write as one."""

    price: Decimal


def envelope_with(digits: str) -> Envelope:
    """As it comes from whoever writes JSON by hand."""
    text = wrap(PriceSet(price=Decimal("1.5")), event_id="one", source="tests").text
    return read(text.replace('"1.5"', digits))


ROUNDED = envelope_with("12345678901234567.89")


def marked(_: str) -> bool:
    """As in a new execution."""
    return True


def unmarked(_: str) -> bool:
    """As on replay of an older history."""
    return False


def test_a_history_that_has_taken_such_an_event_takes_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "patched", unmarked)

    assert unwrap_in_execution(ROUNDED, PriceSet).price != Decimal("12345678901234567.89")


def test_a_new_execution_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "patched", marked)

    with pytest.raises(UnreadableEvent, match="price: the number has more digits"):
        unwrap_in_execution(ROUNDED, PriceSet)


def test_other_events_leave_no_marker_in_a_history() -> None:
    assert unwrap_in_execution(envelope_with("1.25"), PriceSet).price == Decimal("1.25")


def test_a_recorded_event_is_read_as_its_steps_have_read_it() -> None:
    assert unwrap(ROUNDED, PriceSet, is_exact=False).price == Decimal("12345678901234568")
