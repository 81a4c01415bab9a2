"""What the clients publish; all of it follows from a seed."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.bank import CATALOG, PLACEMENTS
from tests.chaos.transfers import SHAPES, OrderedTransfer, Transfer

ACCOUNTS = tuple(f"account-{number:02}" for number in range(20))
HOT = ACCOUNTS[0]
"""One transfer in four takes money from this account."""
BALANCE = 1_000_000
"""The initial balance of each account, large enough that no undo has to wait for money."""
_KEYS = 12
_REFUSED, _TOO_MUCH, _PAUSES = 0.06, 0.04, 0.2


@dataclass(frozen=True, slots=True)
class Order:
    """One event to publish: its id, the client that publishes it, and the time after the start."""

    event_id: str
    client: int
    at: float
    event: Transfer

    def as_json(self) -> str:
        """The order as one line of a client's file."""
        content = {"id": self.event_id, "at": self.at, "type": self.event.type_name()}
        return json.dumps(content | {"data": json.loads(self.event.model_dump_json())})


def orders(*, seed: int, sagas: int, seconds: float, clients: int, writes_alone: bool) -> list[Order]:
    """Draw all events, in the order of their times.

    Args:
        seed: determines everything.
        sagas: how many events.
        seconds: the time over which they are spread.
        clients: how many processes publish them; one client publishes all events of a key.
        writes_alone: whether a writer blocks all others (SQLite), so that pauses must be short.
    """
    random = Random(f"load/{seed}")
    kinds = random.choices(list(PLACEMENTS), weights=list(PLACEMENTS.values()), k=sagas)
    sequences = dict.fromkeys((f"key-{number}" for number in range(_KEYS)), 0)
    drawn: list[Order] = []
    for number, kind in enumerate(kinds):
        values = _values(random, writes_alone=writes_alone)
        client = random.randrange(clients)
        if kind is OrderedTransfer:
            key = random.choice(list(sequences))
            sequences[key] += 1
            values |= {"key": key, "sequence": sequences[key]}
            client = int(key.rpartition("-")[2]) % clients
        at = round(number / sagas * seconds, 2)
        drawn.append(Order(f"chaos-{seed}-{number:05}", client, at, kind(**values)))
    return drawn


def _values(random: Random, *, writes_alone: bool) -> dict[str, Any]:
    source = HOT if random.random() < 0.25 else random.choice(ACCOUNTS)
    target = random.choice([name for name in ACCOUNTS if name != source])
    amount = random.randint(1, 100) if random.random() > _TOO_MUCH else BALANCE * 1000
    values: dict[str, Any] = {"source": source, "target": target, "amount": amount}
    shape = random.choice(SHAPES)
    if shape == "parallel" and amount > BALANCE:
        # Its target would have the money before its source is refused, and another saga could take it from there.
        shape = "steps"
    values |= {"shape": shape, "refuse": random.random() < _REFUSED}
    if random.random() < _PAUSES:
        # A pause after writing the hot account's row would only make the other sagas wait.
        after = source != HOT and random.random() < 0.3
        longest = 150 if writes_alone else 500 if after else 1500
        values |= {"pause_ms": random.randint(50, longest), "pause": "after" if after else "before"}
    return values


def write_orders(folder: Path, drawn: Sequence[Order], clients: int) -> None:
    """Write one file per client."""
    for client in range(clients):
        lines = [order.as_json() for order in drawn if order.client == client]
        orders_of(folder, client).write_text("\n".join(lines))


def read_orders(folder: Path, client: int) -> list[Order]:
    """Read the orders of one client."""
    lines = orders_of(folder, client).read_text().splitlines()
    return [_read(json.loads(line), client) for line in lines]


def _read(content: dict[str, Any], client: int) -> Order:
    kind = CATALOG.events[content["type"]]
    event = kind.model_validate_json(json.dumps(content["data"]))
    assert isinstance(event, Transfer)
    return Order(content["id"], client, content["at"], event)


def orders_of(folder: Path, client: int) -> Path:
    """The file of a client's orders."""
    return folder / f"orders-{client}.jsonl"


def accepted_by(folder: Path, client: int) -> Path:
    """The file to which a client writes the ids of accepted events."""
    return folder / f"accepted-{client}"


def accepted(folder: Path, clients: int) -> Counter[str]:
    """Count how often each event was accepted, according to the clients' files."""
    files = (accepted_by(folder, client) for client in range(clients))
    return Counter(line for file in files if file.exists() for line in file.read_text().split())
