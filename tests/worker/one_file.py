"""The smallest application: one file with its table, events, operations, orchestrator and worker."""

from sqlmodel import Field, SQLModel

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Refused, Saga, Transaction, operation
from orchestrator.worker import Manager


class Stock(SQLModel, table=True):
    """The stock of each thing."""

    thing: str = Field(primary_key=True)
    count: int = Field(ge=0)


class OrderPlaced(DomainEvent):
    """A customer has ordered a thing."""

    thing: str


class OrderCompleted(DomainEvent):
    """The thing is reserved."""

    left: int


class OrderFailed(FailureEvent):
    """The thing was not reserved."""


@operation
async def stock(tx: Transaction, thing: str) -> None:
    """Insert the row of a thing."""
    tx.add(Stock(thing=thing, count=3))


@stock.compensation
async def unstock(tx: Transaction, thing: str) -> None:
    """Delete the row."""
    await tx.delete(await tx.get_one(Stock, thing))


@operation
async def reserve(tx: Transaction, thing: str) -> int:
    """Reserve one piece of a thing; returns how many are left.

    Raises:
        Refused: `order.unknown_thing`
    """
    row = await tx.get(Stock, thing, with_for_update=True)
    if row is None:
        raise Refused("order.unknown_thing", thing)
    row.count -= 1
    return row.count


@reserve.compensation
async def release(tx: Transaction, thing: str) -> None:
    """Release the piece."""
    row = await tx.get_one(Stock, thing, with_for_update=True)
    row.count += 1


class Order(Orchestrator[OrderPlaced, OrderCompleted, OrderFailed]):
    """Reserves a thing."""

    async def handle(self, event: OrderPlaced, saga: Saga) -> OrderCompleted:
        """Stock the thing, then reserve one piece."""
        await saga.execute(stock(event.thing))
        return OrderCompleted(left=await saga.execute(reserve(event.thing)))


if __name__ == "__main__":
    Manager().main()
