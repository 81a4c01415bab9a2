"""All definition faults are reported together before a worker starts, each once and with the correct form."""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from orchestrator import Catalog, DefinitionError

HEADER = """\
from __future__ import annotations
import dataclasses, enum, functools, pathlib, typing, uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NewType
from pydantic import BaseModel, ConfigDict, Field, JsonValue, computed_field
from sqlmodel import SQLModel
from sqlmodel import Field as Column
from orchestrator import Contract, DomainEvent, FailureEvent, Orchestrator, Saga, Transaction, operation, query
class Begun(DomainEvent):
    amount: int
class Ended(DomainEvent):
    amount: int
class Broken(FailureEvent): ...
"""

MANY_FAULTS = Path(__file__).with_name("many_faults.txt")
"""The expected message for the package below, with long lines as in a terminal."""

Discover = Callable[[Mapping[str, str]], Catalog]


@pytest.fixture
def discover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Discover]:
    """A function that writes a package `shop` with these modules and discovers it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    package = tmp_path / "shop"

    def write(modules: Mapping[str, str]) -> Catalog:
        for name, text in {"__init__": "", **modules}.items():
            file = package / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(dedent(text))
        importlib.invalidate_caches()
        return Catalog.discover(["shop"])

    yield write
    for name in [name for name in sys.modules if name == "shop" or name.startswith("shop.")]:
        del sys.modules[name]


GOOD = """
@operation
async def withdraw(tx: Transaction, user: str, amount: int = 1) -> int: ...
@withdraw.compensation
async def put_back(tx: Transaction, amount: int, result: int) -> None: ...
@query
async def rate(tx: Transaction, *, day: str) -> float: ...
@operation(irreversible="a letter cannot be called back", deadline=timedelta(seconds=5))
async def send(tx: Transaction, lines: list[str], known: Mapping[str, JsonValue]) -> frozenset[str]: ...
class Move(Orchestrator[Begun, Ended, Broken]):
    async def handle(self, event: Begun, saga: Saga) -> Ended: ...
"""


def test_a_correct_package_gives_a_catalog(discover: Discover) -> None:
    catalog = discover({"account": HEADER + dedent(GOOD)})

    assert list(catalog.events) == ["BEGUN", "BROKEN", "ENDED"]
    assert list(catalog.operations) == ["account.rate", "account.send", "account.withdraw"]
    assert list(catalog.orchestrators) == ["Move"]
    assert catalog.listeners(catalog.events["BEGUN"]) == [catalog.orchestrators["Move"]]
    assert catalog.compensation_of("account.withdraw") == "account.put_back"


def test_an_orchestrator_of_several_events_listens_to_each(discover: Discover) -> None:
    text = (
        "class Asked(DomainEvent): ...\n"
        "class Move(Orchestrator[Begun | Asked, Ended, Broken]):\n"
        "    async def handle(self, event: Asked | Begun, saga: Saga) -> Ended: ...\n"
        "    def locks(self, event: Begun | Asked) -> Sequence[str]: return ()\n"
        "class Look(Orchestrator[Begun, Ended, Broken]):\n"
        "    async def handle(self, event: Begun, saga: Saga) -> Ended: ..."
    )

    catalog = discover({"account": HEADER + text})

    assert [listener.__name__ for listener in catalog.listeners_of("ASKED")] == ["Move"]
    assert [listener.__name__ for listener in catalog.listeners_of("BEGUN")] == ["Look", "Move"]
    assert catalog.listeners_of("NOBODY_KNOWS") == ()
    assert catalog.shared == {"BEGUN"}


def test_packages_that_overlap_are_discovered_once(discover: Discover) -> None:
    first = discover({"account": HEADER + dedent(GOOD)})

    assert Catalog.discover(["shop", "shop.account", "shop"]) == first


def test_imported_and_aliased_declarations_are_found_once(discover: Discover) -> None:
    catalog = discover(
        {
            "account": HEADER + dedent(GOOD) + "Moved = Ended\nMoving = Move\ndebit = withdraw\n",
            "other": "from shop.account import *\n",
        }
    )

    assert len(catalog.operations) == 3
    assert len(catalog.events) == 3
    assert len(catalog.orchestrators) == 1


def test_a_main_module_is_not_imported(discover: Discover) -> None:
    assert discover({"__main__": "raise SystemExit('run')"}).events == {}


def test_all_faults_are_reported_at_once_with_place_and_correct_form(discover: Discover) -> None:
    events = """\
    from orchestrator import DomainEvent, FailureEvent

    class MoveRequested(DomainEvent):
        version = 0
        labels: list[str]

    class MoveCompleted(DomainEvent):
        model_config = {"extra": "allow"}

    class MoveFailed(FailureEvent):
        why: str
    """
    account = """\
    from orchestrator import Transaction, operation, query

    @operation
    async def withdraw(tx: Transaction, amount: int) -> int: ...

    @withdraw.compensation
    async def put_back(tx: Transaction, sum: int) -> None: ...

    @operation
    def deposit(account, amount: int): ...

    @operation(irreversible="")
    async def close(tx: Transaction) -> None: ...
    """
    broken = "import nothing_of_the_kind\n"
    garbled = "def withdraw(:\n"
    workflows = """\
    from orchestrator import Orchestrator, Saga
    from shop.events import MoveCompleted, MoveFailed, MoveRequested

    class Move(Orchestrator[MoveRequested, MoveCompleted, MoveFailed]):
        def __init__(self, rate: int) -> None: ...
        def handle(self, event: MoveCompleted, saga: Saga) -> MoveCompleted: ...

    class Bare(Orchestrator):
        pass
    """

    with pytest.raises(DefinitionError) as raised:
        discover({"account": account, "events": events, "broken": broken, "garbled": garbled, "workflows": workflows})

    assert str(raised.value) == MANY_FAULTS.read_text().rstrip("\n")


MONEY = "class Money(Contract):\n    minor: int\n"
UNDONE = "@move.compensation\nasync def back(tx: Transaction) -> None: ...\n"
OPERATION_FAULTS: dict[str, tuple[str, str]] = {
    "not asynchronous": (
        "@query\ndef move(tx: Transaction) -> int: ...",
        "move is not asynchronous: write `async def move(tx: Transaction, ...)`",
    ),
    "no transaction": (
        "@query\nasync def move(amount: int) -> int: ...",
        'move takes "amount" first: its first parameter is the transaction, `async def move(tx: Transaction, ...)`',
    ),
    "no parameter": (
        "@query\nasync def move() -> int: ...",
        "move takes no parameter: its first parameter is the transaction, `async def move(tx: Transaction, ...)`",
    ),
    "parameter without type": (
        "@query\nasync def move(tx: Transaction, amount) -> int: ...",
        "move: amount has no type: write `amount: ...`",
    ),
    "no return type": (
        "@query\nasync def move(tx: Transaction): ...",
        "move does not say what it returns: write `-> None`, or the type of its result",
    ),
    "unresolved": (
        "if TYPE_CHECKING:\n    from decimal import Decimal\n"
        "@query\nasync def move(tx: Transaction, amount: Decimal) -> int: ...",
        "an annotation of move cannot be resolved, name 'Decimal' is not defined: "
        "import it at the top of the module, outside of TYPE_CHECKING",
    ),
    "star": (
        "@query\nasync def move(tx: Transaction, *amounts: int) -> int: ...",
        "move: *amounts has no fixed names: name each parameter, or accept a tuple",
    ),
    "two stars": (
        "@query\nasync def move(tx: Transaction, **amounts: int) -> int: ...",
        "move: **amounts has no fixed names: name each parameter, or accept a tuple",
    ),
    "positional only": (
        "@query\nasync def move(tx: Transaction, amount: int, /) -> int: ...",
        "move: amount is positional only, but arguments are recorded by name: remove `/`",
    ),
    "second transaction": (
        "@query\nasync def move(tx: Transaction, other: Transaction) -> int: ...",
        "move: other is a second Transaction: a step has one",
    ),
    "result": (
        "@query\nasync def move(tx: Transaction, result: int) -> int: ...",
        'move takes "result", but in a compensation that is the name of its result: use another name',
    ),
    "default of another type": (
        "@query\nasync def move(tx: Transaction, amount: int = '5') -> int: ...",
        "move: amount has the default '5', which is not of type int",
    ),
    "Any": (
        "@query\nasync def move(tx: Transaction, amount: Any) -> int: ...",
        "move: amount, Any is read back as plain JSON, a tuple as a list: write the type, or pydantic's JsonValue",
    ),
    "Any inside": (
        "Labels = NewType('Labels', dict[str, tuple[Any, ...]])\n"
        "@query\nasync def move(tx: Transaction) -> Annotated[Labels, 'of goods'] | None: ...",
        "move: its result, Any is read back as plain JSON, a tuple as a list: write the type, or pydantic's JsonValue",
    ),
    "bytes": (
        "@query\nasync def move(tx: Transaction) -> bytes: ...",
        "move: its result, bytes can be stored only if it happens to be UTF-8: use a str, for example in base64",
    ),
    "bare list": (
        "@query\nasync def move(tx: Transaction) -> list: ...",
        "move: its result, list does not say what it contains: write `list[...]`",
    ),
    "set as an argument": (
        "@query\nasync def move(tx: Transaction, ids: frozenset[int]) -> int: ...",
        "move: ids, frozenset[int] is written in another order by each process, so a repeat would differ: "
        "use a sorted tuple",
    ),
    "iterable": (
        "@query\nasync def move(tx: Transaction, ids: Iterable[int]) -> int: ...",
        "move: ids, collections.abc.Iterable[int] can be read only once: use a tuple",
    ),
    "tuple as a key": (
        "@query\nasync def move(tx: Transaction, at: dict[tuple[int, int], str]) -> int: ...",
        "move: at, dict[tuple[int, int], str] has keys that JSON turns into text: use a tuple of pairs",
    ),
    "ambiguous union": (
        "@query\nasync def move(tx: Transaction, id: uuid.UUID | str) -> int: ...",
        "move: id, UUID | str is ambiguous, because a str that looks like a UUID is read back as one: "
        "use one of the two",
    ),
    "odd enum": (
        "class Corner(enum.Enum):\n    TOP = (0, 1)\n@query\nasync def move(tx: Transaction) -> Corner: ...",
        "move: its result, Corner.TOP has a value that JSON changes: give its members str or int values",
    ),
    "inside a dataclass": (
        "@dataclasses.dataclass\nclass Box:\n    content: Any\n@query\nasync def move(tx: Transaction) -> Box: ...",
        "move: its result, Any is read back as plain JSON, a tuple as a list: write the type, or pydantic's JsonValue",
    ),
    "table": (
        "class Row(SQLModel, table=True):\n    __tablename__ = 'definition_row'\n"
        "    id: int = Column(primary_key=True)\n"
        "@query\nasync def move(tx: Transaction) -> Row: ...",
        "move: its result, Row is a database table: use a Contract with the fields that are needed",
    ),
    "callable": (
        "@query\nasync def move(tx: Transaction, how: Callable[[int], int]) -> int: ...",
        "move: how, collections.abc.Callable[[int], int] cannot be stored as JSON "
        "(Cannot generate a JsonSchema for core_schema.CallableSchema)",
    ),
    "unknown to pydantic": (
        "class Box: ...\n@query\nasync def move(tx: Transaction) -> Box: ...",
        "move: its result, Box cannot be stored as JSON "
        "(Unable to generate pydantic-core schema for <class 'shop.account.Box'>)",
    ),
    "nothing to undo it": (
        "@operation\nasync def move(tx: Transaction) -> int: ...",
        "move has no compensation: write `@move.compensation` above an `async def`, or say "
        '`@operation(irreversible="why")`, or `@query` if it only reads',
    ),
    "empty reason": (
        "@operation(irreversible=' ')\nasync def move(tx: Transaction) -> int: ...",
        'move gives no reason: write `@operation(irreversible="why it cannot be undone")`',
    ),
    "reason that is not a text": (
        "@operation(irreversible=True)\nasync def move(tx: Transaction) -> int: ...",
        'move gives no reason: write `@operation(irreversible="why it cannot be undone")`',
    ),
    "reason without its name": (
        "@operation('it is gone')\nasync def move(tx: Transaction) -> int: ...\n" + UNDONE,
        "@operation('it is gone') takes its options by name: @operation(irreversible=\"why it cannot be undone\")",
    ),
    "no deadline": (
        "@query(deadline=timedelta(0))\nasync def move(tx: Transaction) -> int: ...",
        "move has the deadline datetime.timedelta(0): write a time, as in `deadline=timedelta(seconds=30)`",
    ),
    "deadline without end": (
        "@query(deadline=timedelta.max)\nasync def move(tx: Transaction) -> int: ...",
        "move has the deadline datetime.timedelta(days=999999999, seconds=86399, microseconds=999999), which exceeds "
        "the limit of 3,660 days: shorten it",
    ),
    "deadline without unit": (
        "@query(deadline=30)\nasync def move(tx: Transaction) -> int: ...",
        "move has the deadline 30: write a time, as in `deadline=timedelta(seconds=30)`",
    ),
    "a class": (
        "@query\nclass move: ...",
        "move is not a function: an operation is an `async def` of a module",
    ),
    "part of a class": (
        "class Shop:\n    @query\n    @staticmethod\n    async def move(tx: Transaction) -> int: ...",
        "move is not a function: an operation is an `async def` of a module",
    ),
    "a method": (
        "class Shop:\n    @query\n    async def move(tx: Transaction) -> int: ...",
        "Shop.move is part of a class: write it as a function of the module",
    ),
    "one name twice": (
        "@query\nasync def move(tx: Transaction) -> int: ...\nstay = move\n"
        "@query\nasync def move(tx: Transaction) -> int: ...",
        "account.move is also in shop/account.py:15. An activity is named after the last part of its module and its "
        "function: rename one of them",
    ),
    "irreversible and undone": (
        "@operation(irreversible='gone')\nasync def move(tx: Transaction) -> int: ...\n" + UNDONE,
        "back undoes move, which says that it is irreversible: remove one of the two",
    ),
    "a query undone": (
        "@query\nasync def move(tx: Transaction) -> int: ...\n" + UNDONE,
        "back undoes move, which is a @query and changes nothing: remove it, or make the query an @operation",
    ),
    "two compensations": (
        "@operation\nasync def move(tx: Transaction) -> int: ...\n"
        + UNDONE
        + "@move.compensation\nasync def back_again(tx: Transaction) -> None: ...",
        "move has two compensations, back and back_again: combine them into one",
    ),
    "one compensation for two": (
        "@operation\nasync def move(tx: Transaction) -> int: ...\n"
        "@operation\nasync def shift(tx: Transaction) -> int: ...\n"
        "@shift.compensation\n" + UNDONE,
        "account.back is declared twice; an activity belongs to one operation: write one function for each operation",
    ),
}
COMPENSATION_FAULTS: dict[str, tuple[str, str]] = {
    "not asynchronous": (
        "def back(tx: Transaction) -> None: ...",
        "back is not asynchronous: write `async def back(tx: Transaction, ...)`",
    ),
    "no transaction": (
        "async def back() -> None: ...",
        "back takes no parameter: its first parameter is the transaction, `async def back(tx: Transaction, ...)`",
    ),
    "another name": (
        "async def back(tx: Transaction, sum: Money) -> None: ...",
        'back takes "sum", but move takes "user", "amount": use the same name, or "result"',
    ),
    "no type": (
        "async def back(tx: Transaction, amount) -> None: ...",
        "back: amount has no type: write the type that it has in move",
    ),
    "another type": (
        "async def back(tx: Transaction, amount: int) -> None: ...",
        "back: amount is int, but move says it is Money: use the same type",
    ),
    "another type of the result": (
        "async def back(tx: Transaction, result: Money) -> None: ...",
        "back: result is Money, but move says what it returns is str | None: use the same type",
    ),
    "returns something": (
        "async def back(tx: Transaction) -> int: ...",
        "back returns something that is never used: write `-> None`",
    ),
    "no return annotation": (
        "async def back(tx: Transaction): ...",
        "back returns something that is never used: write `-> None`",
    ),
    "default": (
        "async def back(tx: Transaction, user: str = '') -> None: ...",
        "back: user has a default, but the engine always passes it: remove the default",
    ),
    "star": (
        "async def back(tx: Transaction, *all: str) -> None: ...",
        "back: *all has no fixed names: name each parameter, or accept a tuple",
    ),
    "unresolved": (
        "async def back(tx: Transaction, user: Nobody) -> None: ...",
        "an annotation of back cannot be resolved, name 'Nobody' is not defined: "
        "import it at the top of the module, outside of TYPE_CHECKING",
    ),
    "a class": (
        "class back: ...",
        "back is not a function: a compensation is an `async def` of a module",
    ),
}
EVENT_FAULTS: dict[str, tuple[str, str]] = {
    "version that is no number": (
        "class Moved(DomainEvent):\n    version = '2'",
        "Moved.version is '2': it counts from 1, as in `version = 2`",
    ),
    "version that is a truth": (
        "class Moved(DomainEvent):\n    version = True",
        "Moved.version is True: it counts from 1, as in `version = 2`",
    ),
    "prefix of pydantic's": (
        "class Moved(DomainEvent):\n    model_number: int",
        "Moved.model_number is in pydantic's namespace: rename it to something without `model_`",
    ),
    "alias": (
        "class Moved(DomainEvent):\n    of: int = Field(alias='from')",
        "Moved.of has an alias, but a field is sent under its own name: remove the alias",
    ),
    "excluded": (
        "class Moved(DomainEvent):\n    note: str = Field(default='', exclude=True)",
        "Moved.note is excluded, so it would not be sent: remove `exclude`",
    ),
    "private": (
        "class Moved(DomainEvent):\n    _note: str = ''",
        "Moved._note is not sent, because it is private: name it without `_`",
    ),
    "computed": (
        "class Moved(DomainEvent):\n    @computed_field\n    @property\n    def note(self) -> str: return ''",
        "Moved.note is a computed field, which a reader rejects as an extra field: use a property",
    ),
    "lax": (
        "class Moved(DomainEvent):\n    model_config = ConfigDict(strict=False)",
        "Moved sets strict to False in its model_config: remove it",
    ),
    "extra fields": (
        "class Moved(DomainEvent):\n    model_config = ConfigDict(extra='ignore')",
        "Moved sets extra to 'ignore' in its model_config: remove it",
    ),
    "thawed": (
        "class Moved(DomainEvent):\n    model_config = ConfigDict(frozen=False)",
        "Moved sets frozen to False in its model_config: remove it",
    ),
    "a contract inside that is lax": (
        "class Money(Contract):\n    model_config = ConfigDict(strict=False)\n"
        "class Moved(DomainEvent):\n    amounts: tuple[Money, ...]",
        "Money sets strict to False in its model_config: remove it",
    ),
    "a model inside that is no contract": (
        "class Money(BaseModel):\n    minor: int\nclass Moved(DomainEvent):\n    amount: Money | None",
        "Moved.amount: Money is not a Contract: write `class Money(Contract)`",
    ),
    "list": (
        "class Moved(DomainEvent):\n    labels: list[str]",
        "Moved.labels: list[str] can be changed after it was checked: use `tuple[str, ...]`",
    ),
    "sequence": (
        "class Moved(DomainEvent):\n    labels: Sequence[str]",
        "Moved.labels: collections.abc.Sequence[str] can be changed after it was checked: use `tuple[str, ...]`",
    ),
    "dict": (
        "class Moved(DomainEvent):\n    labels: dict[str, str] | None = None",
        "Moved.labels: dict[str, str] can be changed after it was checked: use a Contract, or a tuple of pairs",
    ),
    "set": (
        "class Moved(DomainEvent):\n    labels: set[str]",
        "Moved.labels: set[str] is written in another order by each process, so a repeat would differ: "
        "use a sorted tuple",
    ),
    "unresolved": (
        "class Moved(DomainEvent):\n    amount: Nothing",
        "an annotation of Moved cannot be resolved, name 'Nothing' is not defined: "
        "import it at the top of the module, outside of TYPE_CHECKING",
    ),
    "field of a failure": (
        "class Failed(FailureEvent):\n    note: str",
        'Failed adds the field "note" to FailureEvent: the engine fills it in, and a subclass only names it, '
        'as in `class Failed(FailureEvent): """..."""`',
    ),
    "example that raises": (
        "class Moved(DomainEvent):\n    @classmethod\n    def example(cls) -> Moved: return cls(amount=1)",
        "Moved.example() raises ValidationError: 1 validation error for Moved",
    ),
    "example of another event": (
        "class Moved(DomainEvent):\n    @classmethod\n    def example(cls) -> Begun: return Begun(amount=1)",
        "Moved.example() returns Begun: it must return a Moved, or None",
    ),
    "example that is not valid": (
        "class Moved(DomainEvent):\n    amount: int\n    @classmethod\n"
        "    def example(cls) -> Moved: return cls.model_construct(amount='5')",
        "Moved.example() cannot be read back: event.invalid: amount: Input should be a valid integer",
    ),
    "one type under two names": (
        "class BEGUN(DomainEvent): ...",
        "BEGUN is the event type BEGUN, as is the class in shop/account.py:10. An event's type is its class's name: "
        "rename one of them",
    ),
    "a name with non-ASCII letters": (
        "class Überwiesen(DomainEvent): ...",
        "Überwiesen is not an event type: name the class in CamelCase with plain letters and digits",
    ),
}
MOVE = "class Move(Orchestrator[Begun, Ended, Broken]):\n"
HANDLE = "async def handle(self, event: Begun, saga: Saga) -> Ended"
FORM = f"write `{HANDLE}`"
LOCKS = "write `def locks(self, event: Begun) -> Sequence[str]`"
ORDERING_KEY = "write `def ordering_key(self, event: Begun) -> str | None`"
ORCHESTRATOR_FAULTS: dict[str, tuple[str, str]] = {
    "no events": (
        f"class Move(Orchestrator):\n    {HANDLE}: ...",
        "Move does not declare its three events: write "
        "`class Move(Orchestrator[MoveRequested, MoveCompleted, MoveFailed])`",
    ),
    "first is not an event": (
        "class Move(Orchestrator[int, Ended, Broken]):\n"
        "    async def handle(self, event: int, saga: Saga) -> Ended: ...",
        "Move: its first event, int, is not a subclass of DomainEvent",
    ),
    "second is not an event": (
        "class Move(Orchestrator[Begun, DomainEvent, Broken]):\n    " + HANDLE + ": ...",
        "Move: its second event, DomainEvent, is not a subclass of DomainEvent",
    ),
    "second is a failure event": (
        "class Move(Orchestrator[Begun, Broken, Broken]):\n    " + HANDLE + ": ...",
        "Move: its second event, Broken, is a FailureEvent: that is the third event, and the second reports success",
    ),
    "third is not a failure event": (
        "class Move(Orchestrator[Begun, Ended, Ended]):\n    " + HANDLE + ": ...",
        'Move: its third event, Ended, is not a subclass of FailureEvent: write `class Ended(FailureEvent): """..."""`',
    ),
    "the same event starts and ends": (
        "class Move(Orchestrator[Begun, Begun, Broken]):\n    " + HANDLE + ": ...",
        "Move: Begun both starts and ends it, so it would start itself forever: end with another event",
    ),
    "one of several both starts and ends": (
        "class Move(Orchestrator[Begun | Broken, Ended, Broken]):\n"
        "    async def handle(self, event: Begun | Broken, saga: Saga) -> Ended: ...",
        "Move: Broken both starts and ends it, so it would start itself forever: end with another event",
    ),
    "one of several is not an event": (
        "class Move(Orchestrator[Begun | None, Ended, Broken]):\n"
        "    async def handle(self, event: Begun | None, saga: Saga) -> Ended: ...",
        "Move: one of the events that start it, None, is not a subclass of DomainEvent",
    ),
    "one of several not handled": (
        "class Asked(DomainEvent): ...\n"
        "class Move(Orchestrator[Begun | Asked, Ended, Broken]):\n"
        "    async def handle(self, event: Begun, saga: Saga) -> Ended: ...",
        "Move.handle: event is Begun, not Begun | Asked: "
        "write `async def handle(self, event: Begun | Asked, saga: Saga) -> Ended`",
    ),
    "one of several without a lock": (
        "class Asked(DomainEvent): ...\n"
        "class Move(Orchestrator[Begun | Asked, Ended, Broken]):\n"
        "    async def handle(self, event: Asked | Begun, saga: Saga) -> Ended: ...\n"
        "    def locks(self, event: Begun) -> Sequence[str]: ...",
        "Move.locks takes Begun, but Asked starts it: write `def locks(self, event: Begun | Asked) -> Sequence[str]`",
    ),
    "no handle": (
        "class Move(Orchestrator[Begun, Ended, Broken]): ...",
        f"Move has no handle: {FORM}",
    ),
    "not asynchronous": (
        "class Move(Orchestrator[Begun, Ended, Broken]):\n    def handle(self, event: Begun, saga: Saga) -> Ended: ...",
        f"Move.handle is not asynchronous: {FORM}",
    ),
    "other parameters": (
        "class Move(Orchestrator[Begun, Ended, Broken]):\n    async def handle(self, event: Begun) -> Ended: ...",
        f"Move.handle takes parameters other than the event and the saga: {FORM}",
    ),
    "another event": (
        "class Move(Orchestrator[Begun, Ended, Broken]):\n"
        "    async def handle(self, event: Ended, saga: Saga) -> Ended: ...",
        f"Move.handle: event is Ended, not Begun: {FORM}",
    ),
    "no saga": (
        "class Move(Orchestrator[Begun, Ended, Broken]):\n"
        "    async def handle(self, event: Begun, saga: int) -> Ended: ...",
        f"Move.handle: saga is int, not Saga: {FORM}",
    ),
    "no result": (
        "class Move(Orchestrator[Begun, Ended, Broken]):\n    async def handle(self, event: Begun, saga: Saga): ...",
        f"Move.handle: what it returns has no type: {FORM}",
    ),
    "unresolved": (
        "class Move(Orchestrator[Begun, Ended, Broken]):\n"
        "    async def handle(self, event: Begun, saga: Saga) -> Nothing: ...",
        "an annotation of Move.handle cannot be resolved, name 'Nothing' is not defined: "
        "import it at the top of the module, outside of TYPE_CHECKING",
    ),
    "asynchronous locks": (
        f"{MOVE}    {HANDLE}: ...\n    async def locks(self, event: Begun) -> Sequence[str]: ...",
        f"Move.locks is asynchronous, but keys must come from the event alone: {LOCKS}",
    ),
    "asynchronous ordering key": (
        f"{MOVE}    {HANDLE}: ...\n    async def ordering_key(self, event: Begun) -> str: ...",
        f"Move.ordering_key is asynchronous, but keys must come from the event alone: {ORDERING_KEY}",
    ),
    "locks that yield": (
        f"{MOVE}    {HANDLE}: ...\n    def locks(self, event: Begun): yield 'a'",
        f"Move.locks yields, but must return: {LOCKS}",
    ),
    "one lock for a list": (
        f"{MOVE}    {HANDLE}: ...\n    def locks(self, event: Begun) -> str: ...",
        f"Move.locks returns one text, each letter of which would be a key: {LOCKS}",
    ),
    "locks that take more": (
        f"{MOVE}    {HANDLE}: ...\n    def locks(self, event: Begun, saga: Saga) -> Sequence[str]: ...",
        f"Move.locks takes parameters other than the event: {LOCKS}",
    ),
    "ordering key without an event": (
        f"{MOVE}    {HANDLE}: ...\n    def ordering_key(self) -> str: ...",
        f"Move.ordering_key takes parameters other than the event: {ORDERING_KEY}",
    ),
    "locks of another event": (
        f"{MOVE}    {HANDLE}: ...\n    def locks(self, event: Ended) -> Sequence[str]: ...",
        f"Move.locks takes Ended, but Begun starts it: {LOCKS}",
    ),
    "locks that are not a method": (
        f"{MOVE}    {HANDLE}: ...\n    locks = ['user/1']",
        f"Move.locks is not a method: {LOCKS}",
    ),
    "takes arguments": (
        f"class Move(Orchestrator[Begun, Ended, Broken]):\n    def __init__(self, rate: int): ...\n    {HANDLE}: ...",
        'Move.__init__ takes "rate", but the engine creates an instance for each saga without arguments: '
        "read the value from the event, or with a @query",
    ),
    "local class": (
        "def make():\n"
        f"    class Move(Orchestrator[Begun, Ended, Broken]):\n        {HANDLE}: ...\n    return Move\nMove = make()",
        "make.<locals>.Move cannot be imported by its name: define Move at the top of a module",
    ),
}


def _problems_of(discover: Discover, text: str) -> list[str]:
    with pytest.raises(DefinitionError) as raised:
        discover({"account": HEADER + text + "\n"})
    for problem in raised.value.problems:
        assert problem.file == "shop/account.py"
        assert problem.line > 0
    return [problem.text for problem in raised.value.problems]


@pytest.mark.parametrize(("text", "problem"), OPERATION_FAULTS.values(), ids=OPERATION_FAULTS)
def test_a_fault_of_an_operation_is_reported(discover: Discover, text: str, problem: str) -> None:
    assert _problems_of(discover, text) == [problem]


@pytest.mark.parametrize(("text", "problem"), COMPENSATION_FAULTS.values(), ids=COMPENSATION_FAULTS)
def test_a_fault_of_a_compensation_is_reported(discover: Discover, text: str, problem: str) -> None:
    operation = "@operation\nasync def move(tx: Transaction, user: str, amount: Money) -> str | None: ...\n"

    assert _problems_of(discover, f"{MONEY}{operation}@move.compensation\n{text}") == [problem]


def test_a_compensation_with_a_wrong_parameter_is_reported_with_the_right_name(discover: Discover) -> None:
    text = (
        "@operation\nasync def withdraw(tx: Transaction, amount: int) -> None: ...\n"
        "@withdraw.compensation\nasync def put_back(tx: Transaction, sum: int) -> None: ..."
    )

    assert _problems_of(discover, text) == ['put_back takes "sum" where withdraw takes "amount": use the same name']


@pytest.mark.parametrize(("text", "problem"), EVENT_FAULTS.values(), ids=EVENT_FAULTS)
def test_a_fault_of_an_event_is_reported(discover: Discover, text: str, problem: str) -> None:
    assert _problems_of(discover, text) == [problem]


@pytest.mark.filterwarnings("ignore:Field name .* shadows an attribute:UserWarning")
@pytest.mark.parametrize(
    ("field", "problem"),
    [
        ("version: int = 2", "Moved.version is declared as a field: write `version = 2`, without an annotation"),
        ("type_name: str", "Moved.type_name hides an attribute that every event has: rename the field"),
        ("example: str", "Moved.example hides an attribute that every event has: rename the field"),
        ("copy: int", "Moved.copy hides an attribute that every event has: rename the field"),
    ],
)
def test_a_field_that_hides_an_attribute_of_events_is_reported(discover: Discover, field: str, problem: str) -> None:
    assert _problems_of(discover, f"class Moved(DomainEvent):\n    {field}") == [problem]


@pytest.mark.parametrize(("text", "problem"), ORCHESTRATOR_FAULTS.values(), ids=ORCHESTRATOR_FAULTS)
def test_a_fault_of_an_orchestrator_is_reported(discover: Discover, text: str, problem: str) -> None:
    assert _problems_of(discover, text) == [problem]


def test_two_modules_may_not_declare_the_same_name(discover: Discover) -> None:
    other = "from shop.account import *\nfrom orchestrator import *\n"
    again = (
        "class Begun(DomainEvent): ...\n"
        "class Move(Orchestrator[Begun, Ended, Broken]):\n"
        "    async def handle(self, event: Begun, saga: Saga) -> Ended: ...\n"
    )
    inner = "from orchestrator import *\n@query\nasync def put_back(tx: Transaction) -> None: ...\n"

    with pytest.raises(DefinitionError) as raised:
        discover(
            {"account": HEADER + dedent(GOOD), "other": other + again, "inner/__init__": "", "inner/account": inner}
        )

    assert [str(problem) for problem in raised.value.problems] == [
        "shop/inner/account.py:2  account.put_back is also in shop/account.py:18. An activity is named after the last "
        "part of its module and its function: rename one of them",
        "shop/other.py:3  Begun is the event type BEGUN, as is the class in shop/account.py:10. An event's type is its "
        "class's name: rename one of them",
        "shop/other.py:4  Move is also in shop/account.py:24. A workflow type is its class's name: rename one of them",
    ]


def test_activity_names_of_the_engine_are_reserved(discover: Discover) -> None:
    text = (
        "from orchestrator import *\n@operation\nasync def move(tx: Transaction) -> None: ...\n"
        "@move.compensation\nasync def back(tx: Transaction) -> None: ...\n"
    )

    with pytest.raises(DefinitionError) as raised:
        discover({"saga": text})

    assert [problem.text.partition(",")[0] for problem in raised.value.problems] == [
        'saga.move begins with "saga."',
        'saga.back begins with "saga."',
    ]
    assert [problem.line for problem in raised.value.problems] == [2, 4]


def test_a_broken_module_is_reported_once_however_many_modules_import_it(discover: Discover) -> None:
    with pytest.raises(DefinitionError) as raised:
        discover({"alpha": "from shop.middle import x", "middle": "\nx = 1 / 0", "omega": "import shop.middle"})

    assert [str(problem) for problem in raised.value.problems] == [
        "shop/middle.py:2  cannot be imported, ZeroDivisionError: division by zero"
    ]


def test_a_fault_inside_a_library_is_reported_at_the_authors_line(discover: Discover) -> None:
    with pytest.raises(DefinitionError) as raised:
        discover({"events": "from orchestrator import *\n\nclass Moved(DomainEvent):\n    at: type(open)\n"})

    assert raised.value.problems[0].location == "shop/events.py:3"


def test_a_missing_package_is_reported() -> None:
    with pytest.raises(DefinitionError, match=r"nowhere_to_be_found  cannot be imported, ModuleNotFoundError"):
        Catalog.discover(["nowhere_to_be_found"])
