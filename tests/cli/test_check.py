"""`orchestrator check` reports every fault that can be found without a server, and says so with its exit code."""

from pathlib import Path

import pytest

from tests.cli.shell import Shell

EVENTS = """\
from orchestrator import DomainEvent, FailureEvent
class OrderPlaced(DomainEvent):
    item: str
class OrderCompleted(DomainEvent):
    item: str
class OrderFailed(FailureEvent): ...
"""
OPERATIONS = """\
from orchestrator import Transaction, operation
@operation
async def reserve(tx: Transaction, item: str) -> int: ...
@reserve.compensation
async def release(tx: Transaction, item: str) -> None: ...
"""
ORDER = """\
from orchestrator import Orchestrator, Saga
from shop.events import OrderCompleted, OrderFailed, OrderPlaced
class Order(Orchestrator[OrderPlaced, OrderCompleted, OrderFailed]):
    async def handle(self, event: OrderPlaced, saga: Saga) -> OrderCompleted: ...
"""
GOOD = {"events": EVENTS, "operations": OPERATIONS, "order": ORDER}
TABLE_OF_THE_ENGINE = """\
from sqlmodel import Field, SQLModel
class Entry(SQLModel, table=True):
    __tablename__ = "saga_entry"
    id: int = Field(primary_key=True)
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell in the folder of a correct application, with no server anywhere."""
    write(tmp_path, GOOD)
    return Shell({"ORCHESTRATOR_PACKAGES": "shop", "TEMPORAL_ADDRESS": "127.0.0.1:9"}, tmp_path)


def write(folder: Path, modules: dict[str, str]) -> None:
    for name, text in {"__init__": "", **modules}.items():
        file = folder / "shop" / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)


async def test_a_correct_application_has_no_fault(shell: Shell) -> None:
    ran = await shell.run("check")

    assert ran.code == 0, ran
    assert ran.out.startswith("No fault found in 1 orchestrator, 1 operation, 3 events.\n")


async def test_every_definition_fault_is_reported_at_once_with_its_place(shell: Shell, tmp_path: Path) -> None:
    uncompensated = OPERATIONS.partition("@reserve.compensation")[0]
    write(tmp_path, {**GOOD, "operations": uncompensated, "broken": "import nothing", "tables": TABLE_OF_THE_ENGINE})

    plain = await shell.run("check")
    in_json = await shell.run("check", "--json")

    assert plain.code == in_json.code == 2, plain
    assert plain.out.startswith("3 definition faults:\n")
    assert "Traceback" not in plain.out + plain.err
    places = [(problem["file"], problem["line"]) for problem in in_json.document["problems"]]
    assert places == [("shop/broken.py", 1), ("shop/operations.py", 2), ("shop/tables.py", 2)]


@pytest.mark.parametrize(
    ("modules", "place", "text"),
    [
        ({"events": f"{EVENTS}class Parcel(DomainEvent): ...\n"}, "shop/events.py:7", "does not start with"),
        ({"order": f"import random\nWEIGHT = random.random()\n{ORDER}"}, "shop/order.py:5", "Temporal's sandbox"),
    ],
    ids=["a wrong name of an event", "a module that Temporal's sandbox refuses"],
)
async def test_a_fault_that_only_the_whole_application_shows_is_found(
    modules: dict[str, str], place: str, text: str, shell: Shell, tmp_path: Path
) -> None:
    write(tmp_path, {**GOOD, **modules})

    ran = await shell.run("check")

    assert ran.code == 2, ran
    assert ran.out.startswith(f"1 definition fault:\n  {place}  ")
    assert text in ran.out


async def test_an_event_that_differs_from_its_published_contract_is_exit_code_1(shell: Shell, tmp_path: Path) -> None:
    where = shell.at(ORCHESTRATOR_CONTRACTS="contracts.json", ORCHESTRATOR_PAYLOADS="payloads")
    await where.run("contracts", "--accept")
    published = await where.run("check")
    write(tmp_path, {**GOOD, "events": EVENTS.replace("item: str", "thing: str", 1)})

    changed = await where.run("check")
    in_json = await where.run("check", "--json")

    assert published.code == 0, published
    assert changed.code == in_json.code == 1, changed
    assert "ORDER_PLACED has changed incompatibly" in changed.out
    assert {finding["event"] for finding in in_json.document["findings"]} == {"ORDER_PLACED"}
