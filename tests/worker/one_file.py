"""The smallest application: its table, events, operations and orchestrator in one file, which is its worker too."""

from sqlalchemy import insert
from sqlmodel import Field, SQLModel, col, update

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
    await tx.execute(insert(Stock).values(thing=thing, count=3))


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
    taken = await tx.execute(
        update(Stock).where(col(Stock.thing) == thing).values(count=Stock.count - 1).returning(col(Stock.count))
    )
    left: int | None = taken.scalar()
    if left is None:
        raise Refused("order.unknown_thing", thing)
    return left


@reserve.compensation
async def release(tx: Transaction, thing: str) -> None:
    """Put it back."""
    await tx.execute(update(Stock).where(col(Stock.thing) == thing).values(count=Stock.count + 1))


class Order(Orchestrator[OrderPlaced, OrderCompleted, OrderFailed]):
    """Reserves a thing."""

    async def handle(self, event: OrderPlaced, saga: Saga) -> OrderCompleted:
        """Two steps."""
        await saga.execute(stock(event.thing))
        return OrderCompleted(left=await saga.execute(reserve(event.thing)))


if __name__ == "__main__":
    Manager().main()
