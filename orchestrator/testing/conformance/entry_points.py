"""The kit's two doors: a test that pytest collects, and a run that gives a report.

pytest is imported only by who asks for a test. What a suite needs, a loop in a thread of its own, databases, is made at
its first test and kept for the others, so a test may be played in any order and in any process.
"""

import asyncio
import atexit
import threading
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, TypeVar, cast

from sqlalchemy import MetaData
from sqlmodel import SQLModel

from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.operation import Operation
from orchestrator.store.connections.url import Dialect
from orchestrator.testing.conformance.databases import KINDS, NotHere, Server
from orchestrator.testing.conformance.report import Report, Verdict
from orchestrator.testing.conformance.suite import TRIMMED, Group, Players, Suite, play_suite
from orchestrator.testing.example import Equality, Example

R = TypeVar("R")
Trim = Callable[[Group], bool]
"""Whether a group of cells is left out in pytest's runs; a full run plays it."""

SUITE = "__conformance__"
"""Attribute of a collected test: its suite."""


def conformance(
    orchestrator: AnyOrchestrator,
    *examples: Example,
    catalog: Catalog | None = None,
    tables: MetaData | None = None,
    equality: Equality | None = None,
    databases: Sequence[Dialect] = KINDS,
    strategies: Mapping[Operation[..., Any], Mapping[str, Any]] | None = None,
    property_examples: int = 25,
    faults: Collection[str] | None = None,
    trim: Trim | None = None,
) -> Callable[..., None]:
    """A test for pytest: every fault, at every step of every example, on SQLite and PostgreSQL.

        test_money_transfer = conformance(MoneyTransfer, Example(MoneyTransferRequested.example(), given=books))

    Args:
        orchestrator: its class.
        examples: at least one event of it, each with the state that it comes into.
        catalog: by default whatever the packages of `Settings` declare.
        tables: of the application; by default every SQLModel table that is imported.
        equality: what counts as equal when two states are compared; by default every column of every row.
        databases: kinds to play on; one that is not to be had here is declared so.
        strategies: for `do, then undo`: hypothesis strategies by operation and parameter.
        property_examples: how many calls `do, then undo` tries for each step.
        faults: names of those to play; by default all.
        trim: groups that pytest leaves out, shown as skipped. `python -m orchestrator.testing` plays them.

    Raises:
        UsageError: there is no example, two have one name, or a fault is not in the list.
    """
    import pytest

    suite = Suite(
        orchestrator=orchestrator,
        examples=examples,
        catalog=catalog,
        tables=SQLModel.metadata if tables is None else tables,
        equality=equality or Equality(),
        databases=databases,
        strategies=strategies or {},
        property_examples=property_examples,
        faults=faults,
    )

    played = [group for group in suite.groups() if trim is None or not trim(group)]
    trimmed = Counter((str(group.example), group.database) for group in suite.groups() if group not in played)
    faults_each = len(suite.groups()) // (len(suite.examples) * len(suite.databases))
    parameters = [pytest.param(group, id=str(group)) for group in played]
    parameters += [
        pytest.param(
            None,
            id=f"trimmed-{example}-{database}",
            marks=pytest.mark.skip(f"{groups} of {faults_each} faults {TRIMMED}"),
        )
        for (example, database), groups in trimmed.items()
    ]

    @pytest.mark.parametrize("group", parameters)
    def conforms(group: Group) -> None:
        results = _theatre().play(suite, group)
        failed = [result for result in results if result.verdict is Verdict.FAILED]
        if failed:
            pytest.fail("\n\n".join(map(str, failed)), pytrace=False)
        if isinstance(_theatre().servers.get((group.database, id(suite.tables))), NotHere):
            pytest.skip(results[0].told)

    conforms.__doc__ = f"{orchestrator.__name__} ends in one outcome, whatever goes wrong."
    setattr(conforms, SUITE, suite)
    return cast(Callable[..., None], conforms)


def run_conformance(
    orchestrator: AnyOrchestrator,
    *examples: Example,
    catalog: Catalog | None = None,
    tables: MetaData | None = None,
    equality: Equality | None = None,
    databases: Sequence[Dialect] = KINDS,
    strategies: Mapping[Operation[..., Any], Mapping[str, Any]] | None = None,
    property_examples: int = 25,
    faults: Collection[str] | None = None,
) -> Report:
    """The same without pytest, as a whole: every cell with what became of it. Arguments as of `conformance`.

    Raises:
        UsageError: there is no example, two have one name, or a fault is not in the list.
    """
    suite = Suite(
        orchestrator=orchestrator,
        examples=examples,
        catalog=catalog,
        tables=SQLModel.metadata if tables is None else tables,
        equality=equality or Equality(),
        databases=databases,
        strategies=strategies or {},
        property_examples=property_examples,
        faults=faults,
    )
    return Report(_theatre().run(play_suite(suite)))


class _Theatre:
    """A loop in a thread of its own, and what suites keep between their tests."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="conformance", daemon=True)
        self._thread.start()
        self._players: dict[int, Players] = {}
        self.servers: dict[tuple[Dialect, int], Server | NotHere] = {}

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Await work on the loop."""
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def play(self, suite: Suite, group: Group) -> Sequence[Any]:
        """One group of a suite."""
        players = self._players.setdefault(id(suite), Players(suite, self.servers))
        return self.run(players.play(group))

    def close(self) -> None:
        """Let go of everything."""
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        for players in self._players.values():
            await players.close()
        for server in self.servers.values():
            if not isinstance(server, NotHere):
                await server.close()


_theatres: list[_Theatre] = []


def _theatre() -> _Theatre:
    if not _theatres:
        _theatres.append(_Theatre())
        atexit.register(_close)
    return _theatres[0]


def _close() -> None:
    while _theatres:
        _theatres.pop().close()
