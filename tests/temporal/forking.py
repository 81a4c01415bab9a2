"""Publishes, forks children that publish, and publishes again; all of them end as processes usually do."""

import os
import sys
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from orchestrator import BlockingEventBus
from tests.cast_events import CoinsMoveRequested
from tests.house import CATALOG
from tests.orchestrators import CoinsMove

SOON = timedelta(seconds=20)
CHILDREN = 4
BUS = BlockingEventBus.connect(catalog=CATALOG)


def move(who: str) -> None:
    """Move one coin and say so."""
    moved = BUS.execute(CoinsMove, CoinsMoveRequested(source="a", target="b", coins=1), timeout=SOON)
    print(who, moved.coins, flush=True)


def main() -> None:
    """Half of the children close the bus; the others leave that to the end of the process."""
    move("parent")
    children: list[int] = []
    for number in range(CHILDREN):
        child = os.fork()
        if child == 0:
            move("child")
            if number % 2:
                BUS.close()
            sys.exit()
        children.append(child)
    print("children", [os.waitpid(child, 0)[1] for child in children], flush=True)
    move("parent")


if __name__ == "__main__":
    main()
