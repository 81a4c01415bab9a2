"""Orchestrators with external steps: a charge between two database steps, and a parcel that is irreversible."""

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Saga
from orchestrator.definition.catalog import Catalog
from tests import cast
from tests.external import payments
from tests.external.payments import charge_card, charge_soon, drop_parcel, send_message, send_parcel


class PaymentRequested(DomainEvent):
    """Pay with coins and with a card."""

    card: str
    amount: int
    soon: bool = False
    """Whether the charge has a short deadline."""


class PaymentCompleted(DomainEvent):
    """The payment has been made."""

    charge: int
    note: str


class PaymentFailed(FailureEvent):
    """The payment was undone."""


class Payment(Orchestrator[PaymentRequested, PaymentCompleted, PaymentFailed]):
    """A database step, an external step and another database step."""

    async def handle(self, event: PaymentRequested, saga: Saga) -> PaymentCompleted:
        """Take coins, charge the card and write a note."""
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
    """The parcel has been sent."""


class ParcelFailed(FailureEvent):
    """The parcel was not sent."""


class Parcel(Orchestrator[ParcelRequested, ParcelCompleted, ParcelFailed]):
    """An external step is the pivot; a retriable step follows it."""

    async def handle(self, event: ParcelRequested, saga: Saga) -> ParcelCompleted:
        """Take coins, send the parcel and notify the customer."""
        await saga.execute(cast.take("a", event.amount))
        sending = send_parcel if event.can_be_found else drop_parcel
        await saga.execute(sending(event.card, event.amount))
        await saga.execute(send_message(event.card, event.amount))
        return ParcelCompleted()


PAYMENTS = Catalog.of(orchestrators=[Payment, Parcel], operations=[cast.take, cast.write_note, *payments.OPERATIONS])
