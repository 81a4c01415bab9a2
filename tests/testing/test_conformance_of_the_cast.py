"""The cast through the conformance kit: what SmartExpense does not have, calls of the outside, waits, steps at once."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from sqlalchemy import MetaData

from orchestrator import Catalog, DomainEvent, Transaction
from orchestrator.testing import Example, conformance
from orchestrator.testing.conformance.suite import Group
from tests import cast
from tests.cast_events import (
    AtomicMoveRequested,
    CoinsMoveRequested,
    LetterRequested,
    NothingRequested,
    ParallelMoveRequested,
    TurnTakingRequested,
)
from tests.house import CATALOG
from tests.orchestrators import AtomicMove, CoinsMove, Letter, Nothing, ParallelMove, TurnTaking
from tests.store import books
from tests.store.books import CATALOG as BOOKS
from tests.store.books import Booking, BookingRequested
from tests.testing import post
from tests.testing.post import Answered, LetterWritten, Pivots, Post, PostForGood, PostUnasked, filled

FOLDER = Path(tempfile.gettempdir()) / f"conformance-post-{os.getpid()}"
"""The other side."""
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

POST = Catalog.of(
    orchestrators=[Pivots, Post, PostForGood, PostUnasked],
    operations=[post.pay, post.put_stamp, post.file_away, post.send, post.send_for_good, post.send_unasked],
)


def letters() -> list[str]:
    """What the other side has."""
    return sorted(file.read_text() for file in FOLDER.iterdir())


def empty_the_folder() -> None:
    """No letter yet."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()


def only_on_sqlite(group: Group) -> bool:
    """The store's own tests are on both: here it is the kit that is tested."""
    return group.database != "sqlite"


def all_but_its_transaction(group: Group) -> bool:
    """Faults around a step's transaction, for orchestrators whose other cells are like those of `Post`."""
    kept = {
        "driver dies before commit",
        "driver dies after commit",
        "step loses its reply",
        "finish loses its reply",
        "refused",
        "cancelled after step",
        "second driver undoes, step open",
        "hanging",
        "worker killed after step",
    }
    return group.database != "sqlite" or group.fault.name not in kept


def everything(group: Group) -> bool:
    """Others show the same."""
    return True


def all_but_what_locks_see(group: Group) -> bool:
    """Every way to an end, and another saga of the same keys."""
    ends = {"no fault", "refused", "cancelled after step", "driver dies after commit", "finish loses its reply"}
    return group.database != "sqlite" or group.fault.name not in {*ends, "another saga between"}


def all_but_what_another_database_sees(group: Group) -> bool:
    """Whoever dies or comes late between the two. All else, and home on PostgreSQL: `make conformance`."""
    between = {
        "driver dies before commit",
        "driver dies after commit",
        "step loses its reply",
        "hanging",
        "driver dies while undoing",
        "undone twice",
    }
    others = {"refused", "second driver undoes, step open", "worker killed after step", "do, then undo"}
    return group.database != "sqlite" or group.fault.name not in between | others


def with_books() -> MetaData:
    """The cast's tables at home, and those of the books in a database of their own."""
    both = MetaData()
    for table in (*cast.tables.sorted_tables, *books.tables.sorted_tables):
        table.to_metadata(both)
    return both


async def boxes(tx: Transaction) -> None:
    """A hundred coins in box `a`, none in `b`."""
    await cast.stock(await tx.connection(), a=100, b=0)


def moving(event: DomainEvent) -> Example:
    """An example of the shared cast."""
    return Example(event, given=boxes)


A_LETTER = Example(
    LetterWritten(folder=str(FOLDER), coins=5),
    given=filled,
    sent=(Answered(coins=7), Answered(coins=5)),
    observe=letters,
    restore=empty_the_folder,
)

test_post = conformance(Post, A_LETTER, catalog=POST, tables=post.tables, trim=only_on_sqlite)
test_post_for_good = conformance(PostForGood, A_LETTER, catalog=POST, tables=post.tables, trim=all_but_its_transaction)
test_post_unasked = conformance(PostUnasked, A_LETTER, catalog=POST, tables=post.tables, trim=everything)
test_pivots = conformance(Pivots, A_LETTER, catalog=POST, tables=post.tables, trim=everything)

test_parallel_move = conformance(
    ParallelMove,
    moving(ParallelMoveRequested(source="a", target="b", coins=10)),
    catalog=CATALOG,
    tables=cast.tables,
    trim=only_on_sqlite,
)
test_atomic_move = conformance(
    AtomicMove,
    moving(AtomicMoveRequested(source="a", target="b", coins=10)),
    catalog=CATALOG,
    tables=cast.tables,
    trim=all_but_its_transaction,
)
test_turn_taking = conformance(
    TurnTaking,
    moving(TurnTakingRequested(keys=("user/olena", "box/a"), ordering_key="order/1", coins=10)),
    catalog=CATALOG,
    tables=cast.tables,
    trim=all_but_what_locks_see,
)
test_coins_move = conformance(
    CoinsMove,
    moving(CoinsMoveRequested(source="a", target="b", coins=10)),
    catalog=CATALOG,
    tables=cast.tables,
    trim=everything,
)
test_letter = conformance(
    Letter, moving(LetterRequested(source="a", coins=10)), catalog=CATALOG, tables=cast.tables, trim=everything
)
test_booking = conformance(
    Booking, moving(BookingRequested()), catalog=BOOKS, tables=with_books(), trim=all_but_what_another_database_sees
)
test_nothing = conformance(
    Nothing,
    Example(NothingRequested(refuse=False), name="done"),
    Example(NothingRequested(refuse=True), name="refused", refused="nothing.refused"),
    catalog=CATALOG,
    tables=cast.tables,
    trim=only_on_sqlite,
)
