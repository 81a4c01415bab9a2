"""The smallest application: its table, events, operations and orchestrator in one file, which is its worker too."""

from sqlmodel import Field, SQLModel

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Refused, Saga, Transaction, operation
from orchestrator.worker import Manager


class Stock(SQLModel, table=True):
    """How much there is of each thing."""

    thing: str = Field(primary_key=True)
    count: int = Field(ge=0)


class OrderPlaced(DomainEvent):
    """Somebody wants a thing."""

    thing: str


class OrderCompleted(DomainEvent):
    """It is reserved."""

    left: int


class OrderFailed(FailureEvent):
    """There is none."""


@operation
async def stock(tx: Transaction, thing: str) -> None:
    """Make sure that there is a row."""
    tx.add(Stock(thing=thing, count=3))


@stock.compensation
async def unstock(tx: Transaction, thing: str) -> None:
    """Take it out."""
    await tx.delete(await tx.get_one(Stock, thing))


@operation
async def reserve(tx: Transaction, thing: str) -> int:
    """Take one.

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
    """Put it back."""
    row = await tx.get_one(Stock, thing, with_for_update=True)
    row.count += 1


class Order(Orchestrator[OrderPlaced, OrderCompleted, OrderFailed]):
    """Reserves a thing."""

    async def handle(self, event: OrderPlaced, saga: Saga) -> OrderCompleted:
        """Two steps."""
        await saga.execute(stock(event.thing))
        return OrderCompleted(left=await saga.execute(reserve(event.thing)))


if __name__ == "__main__":
    Manager().main()
