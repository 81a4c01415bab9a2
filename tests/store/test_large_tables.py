"""No statement of the engine reads a large table as a whole.

Every public coroutine function of the store is either called here or listed by name as an exception, with the reason.
`test_no_statement_reads_a_large_table_as_a_whole` fails for a new function until it is added to one or the other.
"""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import CodeType
from typing import Any
from uuid import UUID

import pytest

from orchestrator import store
from orchestrator.protocol.commands import Phase
from orchestrator.protocol.lookup import EventFilter, Lookup
from orchestrator.protocol.messages.dead_letters import PIECE, DeadLetter, Inbound, pieces
from orchestrator.store import outbox, recovery, retention, unused_lock_keys
from orchestrator.store.core.database import Database
from orchestrator.store.core.databases import Databases
from orchestrator.store.dead_letters import intake, resolution
from orchestrator.store.external import undo as external_undo
from orchestrator.store.queries import locks as lock_queries
from orchestrator.store.queries import lookup
from orchestrator.store.queries import outbox as outbox_queries
from orchestrator.store.queries import sagas as saga_queries
from orchestrator.store.saga import intervention
from tests import cast
from tests.cast import Script, refuses
from tests.cast_events import CoinsMoveRequested, TurnTakingRequested
from tests.house import new_id
from tests.orchestrators import CoinsMove, TurnTaking
from tests.store.large_tables import fill
from tests.store.pacing import driver_of
from tests.store.plans import large_reads, recording

MOST = 10_500
"""How many rows of one table a statement may read: slightly more than `list` counts."""
NOW = datetime.now(UTC)
MOVE = CoinsMoveRequested(source="a", target="b", coins=1)
Work = Callable[[Database], Awaitable[object]]

COUNTS_WHAT_IT_WOULD_DELETE = "purge --dry-run"
"""The one exception: it counts the rows that a purge would delete, and runs only when a person asks."""
OF_ONE_SAGA = {
    # These read and write the rows of single sagas and steps by their primary keys.
    *("run_calls", "undo_calls", "run_external_step", "settle_external_step", "external_row", "verified", "find_out"),
    *("settle_attempt", "swapped", "undo_external_step", "undo_late_effect", "undo_orphan", "once_settled"),
    *("home_row", "has_happened", "insert_first", "bar", "copy_home", "run_remote_step", "undo_remote_step"),
    *("skip_step", "check_skip", "mark_stuck", "count_undo_failure", "begin_wait", "end_wait", "run_step_group"),
    *(
        "finish_sagas",
        "open_sagas",
        "lock_sagas",
        "lock_saga",
        "turn_to_undoing",
        "why_not_undone",
        "steps_of_each",
        "forward",
    ),
}
OF_NO_LARGE_TABLE = {
    # These read the one row of `saga_meta`, the database's catalog, or nothing.
    *("migrate", "build_missing_indexes", "namespace_of", "swept_until", "record_swept", "check_belonging"),
    *("check_shared", "adopt", "wake_none", "database_time", "clock_of", "read_clock"),
    *("check_postgresql", "write_probe", "is_pooled"),
}


async def overdue(database: Database) -> None:
    """Read recovery's pages."""
    last = None
    for _ in range(3):
        page = await recovery.stalled_sagas(database, before=NOW, now=NOW, waiting_before=NOW, after=last, limit=40)
        last = page[-1]
    [recorded] = (await recovery.recorded_sagas(database, [last.id] if last else [])).values()
    await recovery.would_undo(database, recorded)
    await recovery.undo_if_still_owned(database, recorded, "a test")


async def second_page(database: Database) -> None:
    """Run `list --after` with each filter."""
    filters: list[dict[str, Any]] = [{}, {"phase": Phase.FAILED}, {"orchestrator": "Letter"}, {"stuck": True}]
    for options in filters:
        page = await saga_queries.list_sagas(database, limit=5, **options)
        after = saga_queries.Position(page[-1].created_at, page[-1].id)
        assert len(await saga_queries.list_sagas(database, limit=5, after=after, **options)) == 5


async def letters(database: Database) -> None:
    """Store, replay, edit and settle dead letters."""
    whole = DeadLetter(Inbound("event", 1, b"{}"), "event.not_json", "x", "w", "r")
    number = await intake.store_dead_letter(database, whole)
    for piece in pieces(Inbound("event", 2, b"1" * (PIECE + 1)), "event.not_json", "x"):
        await intake.store_piece(database, piece, workflow_id="w", run_id="r")
    letter = await resolution.read_dead_letter(database, number)
    assert letter is not None
    claim = await resolution.claim_for_replay(database, number, by="test")
    await resolution.give_up_replay(database, number, claim or "")
    await resolution.store_edited_copy(database, letter, b"{}", by="test", code="x", reason="x")
    await resolution.settle_dead_letter(database, number, "dropped", heeds_claims=True)
    await recovery.stored_positions(database, "w", "r")


async def find_dead_letters(database: Database) -> None:
    """Run `dead-letters list` with each option, and its count."""
    everything = resolution.State.ALL
    for search in (
        resolution.Search(),
        resolution.Search(orchestrator="CoinsMove"),
        resolution.Search(event_type="UNHEARD"),
        resolution.Search(state=resolution.State.SETTLED),
        resolution.Search(state=everything),
        resolution.Search(state=everything, code="event.not_json"),
        resolution.Search(state=everything, source="edited"),
        resolution.Search(since=NOW - timedelta(hours=2)),
        resolution.Search(state=everything, since=NOW - timedelta(hours=2)),
    ):
        await resolution.find_dead_letters(database, search)
        await resolution.count_dead_letters(database, search, at_most=10_000)
    assert [letter.id for letter in await resolution.dead_letters_of_event(database, "letter-301")] == [301]
    assert [letter.id for letter in await resolution.dead_letters_of_event(database, "letter-300")] == [300]
    assert await intake.fill_in_event_ids(database) == 300


async def relay(database: Database) -> None:
    """Run every statement of a relay."""
    assert await outbox.is_due(database)
    rows = await outbox.claim(database, limit=50, lease=timedelta(seconds=1))
    await outbox.postpone(database, [(row.id, "why", timedelta(0)) for row in rows[:5]])
    await outbox.mark_rejected(database, rows[6], "why")
    await outbox.mark_sent(database, [row.id for row in rows[7:]])
    await outbox.sagas_among(database, [UUID(int=1)])


async def events(database: Database) -> None:
    """Run the lookups of listeners and of clients that wait for an outcome."""
    wanted = EventFilter(types=("COINS_MOVE_REQUESTED",), since=NOW - timedelta(hours=1, minutes=1))
    ids = tuple(UUID(int=number) for number in (1, 2, 29_990))
    await lookup.answer(Databases(database), Lookup(sagas=ids, open_too=True, events=wanted))


async def drive(database: Database) -> None:
    """Drive a saga that completes, one that is refused and undone, and one with locks."""
    await driver_of(database, CoinsMove, MOVE, new_id()).drive()
    Script.before["put"] = refuses()
    await driver_of(database, CoinsMove, MOVE, new_id()).drive()
    await driver_of(database, TurnTaking, TurnTakingRequested(keys=("k2",)), new_id()).drive()


async def cancel(database: Database) -> None:
    """Run `cancel` on a saga that waits for a lock."""
    [waiting] = await saga_queries.list_sagas(database, limit=1)
    assert waiting.is_waiting
    await intervention.cancel_saga(database, waiting.id, by="test")


RUN: dict[str, Work] = {
    "list": saga_queries.list_sagas,
    "list --phase failed": lambda database: saga_queries.list_sagas(database, phase=Phase.FAILED),
    "list --phase cancelled": lambda database: saga_queries.list_sagas(database, phase=Phase.CANCELLED),
    "list --phase completed": lambda database: saga_queries.list_sagas(database, phase=Phase.COMPLETED),
    "list --phase forward": lambda database: saga_queries.list_sagas(database, phase=Phase.FORWARD),
    "list --phase undoing": lambda database: saga_queries.list_sagas(database, phase=Phase.UNDOING),
    "list --stuck": lambda database: saga_queries.list_sagas(database, stuck=True),
    "list --orchestrator": lambda database: saga_queries.list_sagas(database, orchestrator="Letter"),
    "list --orchestrator without sagas": lambda database: saga_queries.list_sagas(database, orchestrator="Unheard"),
    "list --orchestrator --phase": lambda database: saga_queries.list_sagas(
        database, orchestrator="Letter", phase=Phase.FAILED
    ),
    "list --orchestrator --stuck": lambda database: saga_queries.list_sagas(
        database, orchestrator="Letter", stuck=True
    ),
    "list --limit": lambda database: saga_queries.list_sagas(database, limit=2_000),
    "list --after": second_page,
    "counts": saga_queries.counts,
    "counts of one orchestrator": lambda database: saga_queries.counts(database, orchestrator="Letter"),
    "status": lambda database: saga_queries.sagas_of_event(database, "event-29990"),
    "status of an unknown event": lambda database: saga_queries.sagas_of_event(database, "event-0"),
    "the live view of dev": lambda database: saga_queries.sagas_by_id(database, [UUID(int=1), UUID(int=2)]),
    "dead-letters list": find_dead_letters,
    "locks": lambda database: lock_queries.held_locks(database, limit=20),
    "locks of a key": lambda database: lock_queries.held_lock(database, "k", limit=20),
    "outbox": lambda database: outbox_queries.waiting_groups(database, limit=1_000),
    "the outbox's metrics": outbox_queries.waiting,
    "a cancel": cancel,
    "recovery": overdue,
    "recovery of effects": lambda database: external_undo.orphaned_effects(database, now=NOW),
    "recovery of lock heads": unused_lock_keys.remove_unused_heads,
    "the relay": relay,
    "listening": events,
    "dead letters": letters,
    "retention": lambda database: retention.purge_some(Databases(database), before=NOW - timedelta(hours=1)),
    COUNTS_WHAT_IT_WOULD_DELETE: lambda database: retention.purgeable(
        Databases(database), before=NOW - timedelta(hours=1)
    ),
    "sagas": drive,
}


@contextmanager
def code_that_runs() -> Generator[set[CodeType]]:
    """The code of the functions that are called within the context."""
    called: set[CodeType] = set()
    sys.setprofile(lambda frame, _event, _argument: called.add(frame.f_code))
    try:
        yield called
    finally:
        sys.setprofile(None)


def functions_of_the_store() -> dict[str, Callable[..., Any]]:
    """Every public coroutine function of the store, by name."""
    packages = pkgutil.walk_packages(store.__path__, f"{store.__name__}.")
    modules = [importlib.import_module(module.name) for module in packages if "migrations" not in module.name]
    return {
        name: function
        for module in modules
        for name, function in inspect.getmembers(module, inspect.iscoroutinefunction)
        if not name.startswith("_") and function.__module__ == module.__name__
    }


async def reads(database: Database, sagas: int) -> tuple[dict[str, list[str]], set[CodeType]]:
    """Run everything on a large database.

    Returns:
        The statements that read too much, and the code of the functions that ran.
    """
    await fill(database, sagas)
    async with database.transaction() as connection:
        await cast.stock(connection, a=1_000, b=0)
    with recording(database) as recorded, code_that_runs() as called:
        for recorded.during, work in RUN.items():
            await work(database)
    return await large_reads(recorded, at_most=MOST), called


async def test_no_statement_reads_a_large_table_as_a_whole(database: Database) -> None:
    found, called = await reads(database, 30_000)

    found.pop(COUNTS_WHAT_IT_WOULD_DELETE, None)
    assert not found, "\n\n".join(f"{during}: {reason}" for during, reasons in found.items() for reason in reasons)
    excepted = OF_ONE_SAGA | OF_NO_LARGE_TABLE
    forgotten = [name for name, function in functions_of_the_store().items() if function.__code__ not in called]
    assert set(forgotten) <= excepted


@pytest.mark.exhaustive
async def test_no_statement_reads_a_table_of_a_million_sagas_as_a_whole(database: Database) -> None:
    found, _ = await reads(database, 1_000_000)

    found.pop(COUNTS_WHAT_IT_WOULD_DELETE, None)
    assert not found, "\n\n".join(f"{during}: {reason}" for during, reasons in found.items() for reason in reasons)
