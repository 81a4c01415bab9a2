"""The correct forms have the promised types. Checked by mypy and pyright, never run."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, assert_type

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import Session

from orchestrator import Operation, OperationCall, Orchestrator, Refused, Saga, Transaction, operation, outbox, query
from orchestrator.client import EventBus, SagaHandle
from orchestrator.testing import RecordingSaga
from tests.typing.declared import (
    AccountId,
    Money,
    MoveCompleted,
    MoveFailed,
    MoveRequested,
    count,
    label,
    put_back,
    send_letter,
    withdraw,
)

A = AccountId("a")
FIVE = Money(minor=5)


def calling_an_operation_describes_a_call() -> None:
    assert_type(withdraw(A, FIVE), OperationCall[Money])
    assert_type(withdraw(account=A, amount=FIVE), OperationCall[Money])
    assert_type(send_letter(A), OperationCall[None])
    assert_type(send_letter(A, copies=2), OperationCall[None])
    assert_type(count(), OperationCall[int])
    assert_type(label(A), OperationCall[str | None])


def decorators_keep_the_signature() -> None:
    @operation
    async def bare(tx: Transaction, account: AccountId) -> Money: ...  # type: ignore[empty-body]

    @operation()
    async def called(tx: Transaction) -> None: ...

    @query()
    async def read_account(tx: Transaction, account: AccountId) -> int: ...  # type: ignore[empty-body]

    assert_type(bare(A), OperationCall[Money])
    assert_type(called(), OperationCall[None])
    assert_type(read_account(A), OperationCall[int])
    any_operation: Operation[..., Any] = bare
    assert_type(any_operation(1, two=3), OperationCall[Any])


async def an_operation_and_its_compensation_run_in_a_transaction(tx: Transaction) -> None:
    assert_type(await withdraw.body(tx, A, FIVE), Money)
    assert_type(await count.body(tx), int)
    # The decorator returns a compensation unchanged.
    undoing: Callable[[Transaction, AccountId, Money, Money], Awaitable[None]] = put_back
    await undoing(tx, A, FIVE, FIVE)


async def executing_gives_results(saga: Saga) -> None:
    money, number, name, letter = withdraw(A, FIVE), count(), label(A), send_letter(A)
    assert_type(await saga.execute(money), Money)
    assert_type(await saga.execute(name), str | None)
    assert_type(await saga.execute_all(money), tuple[Money])
    assert_type(await saga.execute_all(money, number), tuple[Money, int])
    assert_type(await saga.execute_all(money, number, name), tuple[Money, int, str | None])
    assert_type(await saga.execute_all(money, number, name, number), tuple[Money, int, str | None, int])
    assert_type(
        await saga.execute_all(money, number, name, number, letter, parallel=True),
        tuple[Money, int, str | None, int, None],
    )
    assert_type(await saga.execute_atomically(money, number, name), tuple[Money, int, str | None])
    assert_type(
        await saga.execute_atomically(money, number, name, number, letter), tuple[Money, int, str | None, int, None]
    )
    assert_type(await saga.execute_all(number, number, number, number, number, number), tuple[int, ...])
    assert_type(await saga.execute_all(*[count() for _ in range(9)], parallel=True), tuple[int, ...])
    assert_type(await saga.execute_all(money, *[money]), tuple[Money, ...])
    assert_type(await saga.execute_atomically(*[count(), count()]), tuple[int, ...])


class Move(Orchestrator[MoveRequested, MoveCompleted, MoveFailed]):
    """Takes money out of an account."""

    async def handle(self, event: MoveRequested, saga: Saga) -> MoveCompleted:
        """Withdraw the money if there is an account."""
        if await saga.execute(count()) == 0:
            raise Refused("account.not_found", "there is no account")
        return MoveCompleted(amount=await saga.execute(withdraw(event.account, event.amount)))


async def an_orchestrator_is_typed_by_its_events(event: MoveRequested) -> None:
    saga = RecordingSaga({withdraw: FIVE, count: lambda call: len(call.arguments), label: [None, "savings"]})
    assert_type(await Move().handle(event, saga), MoveCompleted)
    assert_type(saga.calls[0].operation.name, str)
    _: type[Orchestrator[MoveRequested, MoveCompleted, MoveFailed]] = Move


class Watch(Orchestrator[MoveCompleted | MoveFailed, MoveCompleted, MoveFailed]):
    """Starts on either of two events."""

    async def handle(self, event: MoveCompleted | MoveFailed, saga: Saga) -> MoveCompleted:
        """Check which of the two events has started the saga."""
        return MoveCompleted(amount=event.amount if isinstance(event, MoveCompleted) else FIVE)


async def an_orchestrator_of_several_events_takes_each(bus: EventBus, event: MoveCompleted) -> None:
    assert_type(await bus.execute(Watch, event), MoveCompleted)


async def events_are_added_in_anyones_transaction(
    tx: Transaction, session: AsyncSession, blocking: Session, event: MoveRequested
) -> None:
    assert_type(await outbox.add(tx, event), str)
    assert_type(await outbox.add(session, event, key="k", event_id="e"), str)
    assert_type(outbox.add_sync(blocking, event), str)


async def the_bus_gives_the_completed_event_of_the_orchestrator_asked(bus: EventBus, event: MoveRequested) -> None:
    assert_type(await bus.execute(Move, event, event_id="once", timeout=timedelta(seconds=5)), MoveCompleted)
    assert_type(await bus.publish(event), list[SagaHandle[Any]])


async def a_handle_gives_the_completed_event(handle: SagaHandle[MoveCompleted]) -> None:
    assert_type(await handle.result(), MoveCompleted)


async def answers_are_typed_by_what_is_asked_for(bus: EventBus) -> None:
    assert_type(bus.saga(Move, "once"), SagaHandle[MoveCompleted])
    assert_type(await bus.next_event(MoveCompleted, matching=lambda moved: moved.amount == FIVE), MoveCompleted)
    async with bus.listening(MoveRequested) as listening:
        assert_type(await listening.next(timeout=timedelta(seconds=5)), MoveRequested)
