"""Orchestrators with steps outside: a charge between two steps in the database, and parcels that cannot come back."""

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Saga
from orchestrator.definition.catalog import Catalog
from tests import cast
from tests.external import payments
from tests.external.payments import charge_card, charge_soon, drop_parcel, send_message, send_parcel


class PaymentRequested(DomainEvent):
    """Pay by coins and by card."""

    card: str
    amount: int
    soon: bool = False
    """Give up soon."""


class PaymentCompleted(DomainEvent):
    """Paid."""

    charge: int
    note: str


class PaymentFailed(FailureEvent):
    """Not paid."""


class Payment(Orchestrator[PaymentRequested, PaymentCompleted, PaymentFailed]):
    """A step in the database, one outside, one in the database."""

    async def handle(self, event: PaymentRequested, saga: Saga) -> PaymentCompleted:
        """Take, charge, note."""
        await saga.execute(cast.take("a", event.amount))
        charging = charge_soon if event.soon else charge_card
        charge = await saga.execute(charging(event.card, event.amount))
        note = await saga.execute(cast.write_note(event.card))
        return PaymentCompleted(charge=charge, note=note)


class ParcelRequested(DomainEvent):
    """Send a parcel."""

    card: str
    amount: int
    can_be_found: bool = True


class ParcelCompleted(DomainEvent):
    """Sent."""


class ParcelFailed(FailureEvent):
    """Not sent."""


class Parcel(Orchestrator[ParcelRequested, ParcelCompleted, ParcelFailed]):
    """The pivot is outside; after it comes what is tried until it is done."""

    async def handle(self, event: ParcelRequested, saga: Saga) -> ParcelCompleted:
        """Take, send, tell."""
        await saga.execute(cast.take("a", event.amount))
        sending = send_parcel if event.can_be_found else drop_parcel
        await saga.execute(sending(event.card, event.amount))
        await saga.execute(send_message(event.card, event.amount))
        return ParcelCompleted()


PAYMENTS = Catalog.of(orchestrators=[Payment, Parcel], operations=[cast.take, cast.write_note, *payments.OPERATIONS])
