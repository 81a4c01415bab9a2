"""Definition faults in external operations, retriable operations, waits and deadlines."""

from collections.abc import Mapping

import pytest

from orchestrator import DefinitionError
from tests.unit.test_definition import HEADER, Discover, discover

__all__ = ["discover"]  # the fixture `discover`

MORE = """
from datetime import timedelta
from orchestrator import ExternalCall, Confirmed, external_operation
"""
GOOD = """
@external_operation(time_limit=timedelta(seconds=3))
async def charge(call: ExternalCall, card: str, amount: int) -> str: ...
@charge.verification
async def find_charge(call: ExternalCall, card: str) -> Confirmed[str] | None: ...
@charge.compensation
async def refund(call: ExternalCall, result: str) -> None: ...
@external_operation(irreversible="a parcel that is handed over is gone")
async def send_parcel(call: ExternalCall) -> None: ...
@operation(retriable=True)
async def write_invoice(tx: Transaction) -> None: ...
class Said(DomainEvent): ...
class Move(Orchestrator[Begun, Ended, Broken]):
    awaited = (Said,)
    deadline = timedelta(hours=1)
    async def handle(self, event: Begun, saga: Saga) -> Ended: ...
"""


def module(text: str) -> Mapping[str, str]:
    """The modules of a package with one module."""
    return {"payment": HEADER + MORE + text}


def test_a_correct_package_gives_a_catalog_with_its_awaited_events(discover: Discover) -> None:
    catalog = discover(module(GOOD))

    assert list(catalog.operations) == ["payment.charge", "payment.send_parcel", "payment.write_invoice"]
    assert catalog.compensation_of("payment.charge") == "payment.refund"
    assert "SAID" in catalog.events


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("@charge.verification\n", "", "charge has no verification, so it could not be undone when a reply is lost"),
        ("@charge.compensation\n", "", "charge has no compensation: write `@charge.compensation`"),
        ("Confirmed[str] | None", "Confirmed[int] | None", "write `-> Confirmed[str] | None`"),
        ("Confirmed[str] | None", "str | None", "write `-> Confirmed[str] | None`"),
        (
            "find_charge(call: ExternalCall, card: str)",
            "find_charge(call: ExternalCall, result: str)",
            'takes "result"',
        ),
        ("find_charge(call: ExternalCall, card: str)", "find_charge(card: str)", "its first parameter is the external"),
        ("refund(call: ExternalCall", "refund(tx: Transaction", "its first parameter is the external call"),
        ("charge(call: ExternalCall, card", "charge(tx: Transaction, card", "`async def charge(call: ExternalCall"),
        ("time_limit=timedelta(seconds=3)", "time_limit=3", "write a time, as in `time_limit=timedelta(seconds=10)`"),
        ('(irreversible="a parcel that is handed over is gone")', '(irreversible="")', "gives no reason"),
        ("retriable=True", 'retriable=True, irreversible="x"', "has both irreversible and retriable"),
        (
            "class Said",
            "@write_invoice.compensation\nasync def tear_up(tx: Transaction) -> None: ...\nclass Said",
            "which is retriable: it comes after the pivot",
        ),
        ("awaited = (Said,)", "awaited = [Said]", "`awaited` is not a tuple"),
        ("awaited = (Said,)", "awaited = (str,)", "it waits for str, which is not a subclass of DomainEvent"),
        ("awaited = (Said,)", "awaited = (Begun,)", "it waits for Begun, which starts it"),
        ("class Move(", f"class {'M' * 121}(", "is longer than 120 characters: shorten it"),
        ("deadline = timedelta(hours=1)", "deadline = timedelta.max", "the limit of 3,660 days: shorten it; None, "),
        ("time_limit=timedelta(seconds=3)", "time_limit=timedelta.max", "exceeds the limit of 3,660 days: shorten it"),
        ("deadline = timedelta(hours=1)", "deadline = 3600", "write a time, as in `deadline = timedelta(hours=1)`"),
    ],
)
def test_a_fault_is_reported_with_the_correct_form(discover: Discover, right: str, wrong: str, message: str) -> None:
    assert right in GOOD

    with pytest.raises(DefinitionError) as faults:
        discover(module(GOOD.replace(right, wrong)))

    assert message in str(faults.value)
