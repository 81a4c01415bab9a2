"""Mistakes that both type checkers refuse. Checked, never run: see `test_typing`.

A comment above each mistake quotes a part of each checker's message. A statement without such a comment is correct.
"""

from datetime import timedelta

from orchestrator import Operation, OperationCall, Orchestrator, Saga, Transaction, operation, query
from orchestrator.client import EventBus
from orchestrator.testing import RecordingSaga
from tests.typing.declared import (
    AccountId,
    Money,
    MoveCompleted,
    MoveFailed,
    MoveRequested,
    UserId,
    count,
    label,
    send_letter,
    withdraw,
)

A = AccountId("a")
FIVE = Money(minor=5)


def calls_that_do_not_fit_their_operation() -> None:
    withdraw(A, FIVE)
    # refused by mypy: Argument 2 to "__call__" of "Operation" has incompatible type "int"; expected "Money"
    # refused by pyright: Argument of type "Literal[5]" cannot be assigned to parameter "amount" of type "Money"
    withdraw(A, 5)
    # refused by mypy: Argument 1 to "__call__" of "Operation" has incompatible type "UserId"; expected
    # refused by pyright: Argument of type "UserId" cannot be assigned to parameter "account" of type "AccountId"
    withdraw(UserId("u"), FIVE)
    # refused by mypy: Missing positional argument "amount" in call to "__call__" of "Operation"
    # refused by pyright: Argument missing for parameter "amount"
    withdraw(A)
    # refused by mypy: Too many arguments for "__call__" of "Operation"
    # refused by pyright: Expected 2 positional arguments
    withdraw(A, FIVE, 1)
    # refused by mypy: Unexpected keyword argument "sum" for "__call__" of "Operation"
    # refused by pyright: No parameter named "sum"
    withdraw(A, sum=FIVE)
    # refused by mypy: Too many positional arguments for "__call__" of "Operation"
    # refused by pyright: Expected 1 positional argument
    send_letter(A, 2)
    # refused by mypy: Too many arguments for "__call__" of "Operation"
    # refused by pyright: Expected 0 positional arguments
    count(1)


def a_call_is_no_result() -> None:
    # refused by mypy: Incompatible types in assignment (expression has type "OperationCall[Money]", variable
    # refused by pyright: Type "OperationCall[Money]" is not assignable to declared type "Money"
    amount: Money = withdraw(A, FIVE)
    # refused by mypy: "OperationCall[Money]" has no attribute "minor"
    # refused by pyright: Cannot access attribute "minor" for class "OperationCall[Money]"
    print(withdraw(A, FIVE).minor, amount)
    # refused by mypy: Incompatible types in assignment (expression has type "OperationCall[Money]", variable
    # refused by pyright: Type "OperationCall[Money]" is not assignable to declared type "OperationCall[int]"
    call: OperationCall[int] = withdraw(A, FIVE)
    print(call)


async def awaiting_goes_through_the_saga(saga: Saga, tx: Transaction) -> None:
    await saga.execute(withdraw(A, FIVE))
    # refused by mypy: Value of type "Coroutine[Any, Any, Money]" must be used
    # refused by pyright: Result of async function call is not used
    saga.execute(withdraw(A, FIVE))
    # refused by mypy: Argument 1 to "execute" of "Saga" has incompatible type "Operation[[AccountId, Money],
    # refused by pyright: Argument of type "Operation[(account: AccountId, amount: Money), Money]" cannot be
    await saga.execute(withdraw)
    # refused by mypy: Argument 1 to "execute" of "Saga" has incompatible type "Coroutine[Any, Any, Money]";
    # refused by pyright: Argument of type "CoroutineType[Any, Any, Money]" cannot be assigned to parameter
    await saga.execute(withdraw.body(tx, A, FIVE))
    # refused by mypy: Too many arguments for "execute" of "Saga"
    # refused by pyright: Expected 1 positional argument
    await saga.execute(withdraw(A, FIVE), count())
    # refused by mypy: Argument 1 to "execute" of "Saga" has incompatible type "OperationCall[Money]";
    # refused by pyright: Type "Money" is not assignable to declared type "int"
    number: int = await saga.execute(withdraw(A, FIVE))
    # refused by mypy: Argument 1 to "execute" of "Saga" has incompatible type "OperationCall[str | None]";
    # refused by pyright: Type "str | None" is not assignable to declared type "str"
    name: str = await saga.execute(label(A))
    # refused by mypy: Need more than 1 value to unpack (2 expected)
    # refused by pyright: Expression with type "tuple[Money]" cannot be assigned to target tuple
    _, _ = await saga.execute_all(withdraw(A, FIVE))
    # refused by mypy: All overload variants of "execute_all" of "Saga" require at least one argument
    # refused by pyright: No overloads for "execute_all" match the provided arguments
    await saga.execute_all()
    # refused by mypy: No overload variant of "execute_all" of "Saga" matches argument type
    # refused by pyright: No overloads for "execute_all" match the provided arguments
    await saga.execute_all([count()])
    # refused by mypy: No overload variant of "execute_atomically" of "Saga" matches argument type
    # refused by pyright: No overloads for "execute_atomically" match the provided arguments
    await saga.execute_atomically([count()])
    # refused by mypy: Incompatible types in assignment (expression has type "tuple[Money
    # refused by pyright: Type "tuple[Money, ...]" is not assignable to declared type "tuple[int, ...]"
    numbers: tuple[int, ...] = await saga.execute_all(*[withdraw(A, FIVE)])
    print(number, name, numbers)


async def a_body_takes_what_it_declares(tx: Transaction) -> None:
    # refused by mypy: Missing positional argument "amount" in call to "body" of "Operation"
    # refused by pyright: Argument missing for parameter "amount"
    await withdraw.body(A, FIVE)
    # refused by mypy: Argument 3 to "body" of "Operation" has incompatible type "int"; expected "Money"
    # refused by pyright: Argument of type "Literal[5]" cannot be assigned to parameter "amount" of type "Money"
    await withdraw.body(tx, A, 5)


def declarations() -> None:
    # refused by mypy: Argument 1 to "operation" has incompatible type "Callable[[Transaction], int]";
    # refused by pyright: Argument of type "(tx: Transaction) -> int" cannot be assigned to parameter "body" of
    @operation
    def not_asynchronous(tx: Transaction) -> int:
        return 1

    # refused by mypy: Argument 1 to "operation" has incompatible type "Callable[[int], Coroutine[Any, Any,
    # refused by pyright: Argument of type "(amount: int) -> CoroutineType[Any, Any, int]" cannot be assigned to
    @operation
    async def without_transaction(amount: int) -> int:
        return amount

    # refused by mypy: No overload variant of "operation" matches argument type "str"
    # refused by pyright: Argument of type "Literal['it is gone']" cannot be assigned to parameter "body" of type
    @operation("it is gone")
    async def reason_without_its_name(tx: Transaction) -> None: ...

    # refused by mypy: No overload variant of "operation" matches argument type "bool"
    # refused by pyright: Argument of type "Literal[True]" cannot be assigned to parameter "irreversible" of type
    @operation(irreversible=True)
    async def reason_that_is_none(tx: Transaction) -> None: ...

    # refused by mypy: No overload variant of "query" matches argument type "int"
    # refused by pyright: Argument of type "Literal[5]" cannot be assigned to parameter "deadline" of type
    @query(deadline=5)
    async def deadline_without_unit(tx: Transaction) -> None: ...

    # refused by mypy: Unexpected keyword argument "irreversible" for overloaded function "query"
    # refused by pyright: No overloads for "query" match the provided arguments
    @query(deadline=timedelta(seconds=5), irreversible="it only reads")
    async def query_with_a_reason(tx: Transaction) -> None: ...

    # refused by mypy: Value of type variable "CompensationBody" of "compensation" of "Operation" cannot be
    # refused by pyright: Argument of type "(tx: Transaction) -> CoroutineType[Any, Any, int]" cannot be assigned
    @withdraw.compensation
    async def returns_something(tx: Transaction) -> int:
        return 1

    # refused by mypy: Value of type variable "CompensationBody" of "compensation" of "Operation" cannot be
    # refused by pyright: Argument of type "(tx: Transaction) -> None" cannot be assigned to parameter "body" of
    @withdraw.compensation
    def undoes_at_once(tx: Transaction) -> None: ...


# refused by mypy: Type argument "MoveCompleted" of "Orchestrator" must be a subtype of "FailureEvent"
# refused by pyright: Type "MoveCompleted" cannot be assigned to type variable "Failed@Orchestrator"
class NoFailure(Orchestrator[MoveRequested, MoveCompleted, MoveCompleted]): ...


# refused by mypy: Type argument "str" of "Orchestrator" must be a subtype of "DomainEvent"
# refused by pyright: Type "str" cannot be assigned to type variable "Requested@Orchestrator"
class NoEvent(Orchestrator[str, MoveCompleted, MoveFailed]): ...


class OtherEvent(Orchestrator[MoveRequested, MoveCompleted, MoveFailed]):
    # refused by mypy: Argument 1 of "handle" is incompatible with supertype
    # refused by pyright: Method "handle" overrides class "Orchestrator" in an incompatible manner
    async def handle(self, event: MoveCompleted, saga: Saga) -> MoveCompleted:
        return event


class OtherResult(Orchestrator[MoveRequested, MoveCompleted, MoveFailed]):
    # refused by mypy: Return type "Coroutine[Any, Any, MoveRequested]" of "handle" incompatible with return
    # refused by pyright: Method "handle" overrides class "Orchestrator" in an incompatible manner
    async def handle(self, event: MoveRequested, saga: Saga) -> MoveRequested:
        return event


async def the_bus_takes_the_event_of_the_orchestrator_asked(bus: EventBus, other: MoveCompleted) -> None:
    # refused by mypy: Cannot infer value of type parameter "Req" of "execute" of "EventBus"
    # refused by pyright: Argument of type "type[OtherResult]" cannot be assigned to parameter "orchestrator" of
    await bus.execute(OtherResult, other)


class ForgottenResult(Orchestrator[MoveRequested, MoveCompleted, MoveFailed]):
    # refused by mypy: Missing return statement
    # refused by pyright: Function with declared return type "MoveCompleted" must return value on all code paths
    async def handle(self, event: MoveRequested, saga: Saga) -> MoveCompleted:
        await saga.execute(withdraw(event.account, event.amount))


class NoHandle(Orchestrator[MoveRequested, MoveCompleted, MoveFailed]): ...


def events_are_strict() -> None:
    # refused by mypy: Cannot instantiate abstract class "NoHandle" with abstract attribute "handle"
    # refused by pyright: Cannot instantiate abstract class "NoHandle"
    NoHandle()
    # refused by mypy: Argument "amount" to "MoveRequested" has incompatible type "int"; expected "Money"
    # refused by pyright: Argument of type "Literal[5]" cannot be assigned to parameter "amount" of type "Money"
    MoveRequested(account=A, amount=5)
    # refused by mypy: Missing named argument "amount" for "MoveRequested"
    # refused by pyright: Argument missing for parameter "amount"
    MoveRequested(account=A)
    # refused by mypy: Unexpected keyword argument "note" for "MoveRequested"
    # refused by pyright: No parameter named "note"
    MoveRequested(account=A, amount=FIVE, note="")
    # refused by mypy: Dict entry 0 has incompatible type "str": "Money"; expected "Operation[[VarArg(Any),
    # refused by pyright: Argument of type "dict[str, Money]" cannot be assigned to parameter "answers" of type
    RecordingSaga({"account.withdraw": FIVE})
    # refused by mypy: Incompatible types in assignment (expression has type "Operation[[AccountId, Money],
    # refused by pyright: Type "Operation[(account: AccountId, amount: Money), Money]" is not assignable to
    takes_operations: Operation[[AccountId], Money] = withdraw
    print(takes_operations)
