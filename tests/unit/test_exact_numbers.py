"""Events with numbers that a float would round are refused, except on replay of a history that accepted them."""

from decimal import Decimal

import pytest
from temporalio import workflow

from orchestrator import DomainEvent
from orchestrator.protocol.messages.envelope import Envelope, UnreadableEvent, read, wrap
from orchestrator.protocol.messages.unwrapping import unwrap
from orchestrator.workflow.exact_numbers import unwrap_in_execution


class PriceSet(DomainEvent):
    """An event with a number that JSON can write as a number."""

    price: Decimal


def envelope_with(digits: str) -> Envelope:
    """An envelope with the price as a JSON number, as in JSON that is written by hand."""
    text = wrap(PriceSet(price=Decimal("1.5")), event_id="one", source="tests").text
    return read(text.replace('"1.5"', digits))


ROUNDED = envelope_with("12345678901234567.89")


def marked(_: str) -> bool:
    """Stand in for `workflow.patched` in a new execution."""
    return True


def unmarked(_: str) -> bool:
    """Stand in for `workflow.patched` on replay of an older history."""
    return False


def test_a_history_that_accepted_a_rounded_number_accepts_it_on_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "patched", unmarked)

    assert unwrap_in_execution(ROUNDED, PriceSet).price != Decimal("12345678901234567.89")


def test_a_new_execution_refuses_a_number_that_would_be_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "patched", marked)

    with pytest.raises(UnreadableEvent, match="price: the number has more digits"):
        unwrap_in_execution(ROUNDED, PriceSet)


def test_an_exact_number_leaves_no_marker_in_the_history() -> None:
    assert unwrap_in_execution(envelope_with("1.25"), PriceSet).price == Decimal("1.25")


def test_a_recorded_event_is_read_as_its_steps_have_read_it() -> None:
    assert unwrap(ROUNDED, PriceSet, is_exact=False).price == Decimal("12345678901234568")
