"""The external operations of the tests, which call the payment service."""

from datetime import timedelta

from orchestrator import Confirmed, ExternalCall, Refused, external_operation
from tests.external.wire import Wire

TIME_LIMIT = timedelta(seconds=1)


async def _post(name: str, kind: str, call: ExternalCall, card: str, amount: int, charge: int | None = None) -> int:
    body = {"card": card, "amount": amount, "charge": charge}
    answer = await Wire.call(name, "POST", f"/{kind}", key=call.idempotency_key, body=body)
    if answer.status == 402:
        raise Refused("card.declined", "the card was declined")
    if answer.status != 201:
        raise RuntimeError(f"the service answered {answer.status}")
    number: int = answer.content["id"]
    return number


async def _find(name: str, kind: str, call: ExternalCall) -> int | None:
    answer = await Wire.call(name, "GET", f"/{kind}?key={call.idempotency_key}")
    if answer.status not in (200, 404):
        raise RuntimeError(f"the service answered {answer.status}")
    return answer.content["id"] if answer.content.get("status") == 201 else None


@external_operation(time_limit=TIME_LIMIT)
async def charge_card(call: ExternalCall, card: str, amount: int) -> int:
    """Charge a card; returns the charge's number."""
    return await _post("charge_card", "charges", call, card, amount)


@charge_card.compensation
async def refund(call: ExternalCall, card: str, amount: int, result: int) -> None:
    """Refund the charge."""
    await _post("refund", "refunds", call, card, amount, result)


@charge_card.verification
async def find_charge(call: ExternalCall) -> Confirmed[int] | None:
    """Look up the charge with this idempotency key."""
    number = await _find("find_charge", "charges", call)
    return None if number is None else Confirmed(number)


@external_operation(time_limit=TIME_LIMIT, deadline=timedelta(milliseconds=200))
async def charge_soon(call: ExternalCall, card: str, amount: int) -> int:
    """Charge a card, with a short deadline."""
    return await _post("charge_soon", "charges", call, card, amount)


@charge_soon.compensation
async def refund_soon(call: ExternalCall, card: str, amount: int, result: int) -> None:
    """Refund the charge."""
    await _post("refund_soon", "refunds", call, card, amount, result)


@charge_soon.verification
async def find_charge_soon(call: ExternalCall) -> Confirmed[int] | None:
    """Look up the charge with this idempotency key."""
    number = await _find("find_charge_soon", "charges", call)
    return None if number is None else Confirmed(number)


@external_operation(
    irreversible="a parcel on the road cannot be called back",
    time_limit=TIME_LIMIT,
    deadline=timedelta(milliseconds=200),
)
async def send_parcel(call: ExternalCall, card: str, amount: int) -> None:
    """Send a parcel, which can be looked up."""
    await _post("send_parcel", "parcels", call, card, amount)


@send_parcel.verification
async def find_parcel(call: ExternalCall) -> Confirmed[None] | None:
    """Look up the parcel with this idempotency key."""
    return None if await _find("find_parcel", "parcels", call) is None else Confirmed(None)


@external_operation(
    irreversible="a parcel on the road cannot be called back",
    time_limit=TIME_LIMIT,
    deadline=timedelta(milliseconds=200),
)
async def drop_parcel(call: ExternalCall, card: str, amount: int) -> None:
    """Send a parcel that cannot be looked up."""
    await _post("drop_parcel", "parcels", call, card, amount)


@external_operation(retriable=True, time_limit=TIME_LIMIT)
async def send_message(call: ExternalCall, card: str, amount: int) -> None:
    """Notify the customer; retried until it succeeds."""
    await _post("send_message", "messages", call, card, amount)


OPERATIONS = (charge_card, charge_soon, send_parcel, drop_parcel, send_message)
