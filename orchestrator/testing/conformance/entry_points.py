"""The kit's entry points: a test for pytest, a function that returns a report, and a command for a full run.

Only `conformance` imports pytest. A suite's event loop and databases are created for its first test and kept for the
others, so that the tests can run in any order and in any process.

The command is `python -m orchestrator.testing MODULE...`. It runs every suite of these modules and prints the counts as
its last line. `--slice i/n` runs every n-th group of each suite, that is, every n-th combination of fault, example and
database. The exit code is 0 if every cell was hit or declared, 1 if one failed or none was tried, and 2 if the modules
have no suite.
"""

import argparse
import asyncio
import atexit
import importlib
import multiprocessing
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar, Unpack, cast

from sqlalchemy import MetaData

from orchestrator.definition.catalog import AnyOrchestrator, Catalog
from orchestrator.operation import Operation
from orchestrator.store.connections.url import Dialect
from orchestrator.testing.conformance.databases import DatabaseUnavailable
from orchestrator.testing.conformance.report import Report, Result, Verdict
from orchestrator.testing.conformance.suite import (
    TRIMMED,
    Group,
    Sources,
    Suite,
    SuiteRunner,
    close_sources,
    run_suite,
)
from orchestrator.testing.example import Equality, Example
from orchestrator.testing.slices import WHOLE, Slice

R = TypeVar("R")
Trim = Callable[[Group], bool]
"""Returns whether pytest leaves out a group of cells. A full run includes it."""

SUITE = "__conformance__"
"""The attribute that holds a collected test's suite."""
PROPERTY_EXAMPLES = 100
"""The minimum number of calls that `do, then undo` tries for each step of a full run."""


class SuiteOptions(TypedDict, total=False):
    """The optional arguments of a suite. `Suite` has their defaults."""

    catalog: Catalog | None
    tables: MetaData
    equality: Equality
    databases: Sequence[Dialect]
    strategies: Mapping[Operation[..., Any], Mapping[str, Any]]
    property_examples: int
    faults: Collection[str] | None


def conformance(
    orchestrator: AnyOrchestrator, *examples: Example, trim: Trim | None = None, **options: Unpack[SuiteOptions]
) -> Callable[..., None]:
    """Create a test for pytest: every fault, at every step of every example, on SQLite and PostgreSQL.

        test_money_transfer = conformance(MoneyTransfer, Example(MoneyTransferRequested.example(), given=books))

    Args:
        orchestrator: the class to test.
        examples: at least one event of the orchestrator, each with the state that exists before it arrives.
        trim: says which groups pytest leaves out and shows as skipped. `python -m orchestrator.testing` runs them.
        options: any of these:
            `catalog`: by default whatever the packages of `Settings` declare.
            `tables`: the application's tables; by default every SQLModel table that is imported.
            `equality`: what counts as equal when two states are compared; by default every column of every row.
            `databases`: the kinds of database to run on. Cells of a kind that this machine lacks are declared.
            `strategies`: hypothesis strategies for `do, then undo`, by operation and parameter.
            `property_examples`: how many calls `do, then undo` tries for each step.
            `faults`: the names of the faults to try; by default all.

    Raises:
        UsageError: there is no example, two have the same name, or a fault is not in the list.
    """
    import pytest

    suite = Suite(orchestrator=orchestrator, examples=examples, **options)
    included = [group for group in suite.groups() if trim is None or not trim(group)]
    trimmed = Counter((str(group.example), group.database) for group in suite.groups() if group not in included)
    faults_each = len(suite.groups()) // (len(suite.examples) * len(suite.databases))
    parameters = [pytest.param(group, id=str(group)) for group in included]
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
        runner = _background_runner()
        results = runner.run_group(suite, group)
        failed = [result for result in results if result.verdict is Verdict.FAILED]
        if failed:
            pytest.fail("\n\n".join(map(str, failed)), pytrace=False)
        if isinstance(runner.sources.get((group.database, id(suite.tables))), DatabaseUnavailable):
            pytest.skip(results[0].detail)

    conforms.__doc__ = f"{orchestrator.__name__} ends in one outcome, whatever goes wrong."
    setattr(conforms, SUITE, suite)
    return cast(Callable[..., None], conforms)


def run_conformance(orchestrator: AnyOrchestrator, *examples: Example, **options: Unpack[SuiteOptions]) -> Report:
    """Run every cell without pytest, and return the results. The arguments are those of `conformance`.

    Raises:
        UsageError: there is no example, two have the same name, or a fault is not in the list.
    """
    suite = Suite(orchestrator=orchestrator, examples=examples, **options)
    return Report(_background_runner().run(run_suite(suite)))


class Job(NamedTuple):
    """One suite on one kind of database, which a full run gives to one of its processes."""

    module: str
    test: str
    database: Dialect
    part: Slice


def main(arguments: list[str]) -> int:
    """Run the suites of the modules that the command line names, print the report and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.testing")
    parser.add_argument("module", nargs="*", help="a module that has `test_... = conformance(...)`")
    parser.add_argument(
        "--slice", type=Slice.parse, default=WHOLE, metavar="i/n", help="run every n-th group of each suite"
    )
    options = parser.parse_args(arguments)
    modules: list[str] = options.module
    sys.path.insert(0, str(Path.cwd()))
    jobs = [
        Job(module, name, database, options.slice)
        for module in modules
        for name, suite in sorted(suites_in(module).items())
        for database in suite.databases
    ]
    if not jobs:
        print("There is nothing to run. Pass modules that contain `test_... = conformance(...)`.", file=sys.stderr)
        return 2
    results: dict[Job, list[Result]] = {}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(run_job, job): job for job in jobs}
        for ended in as_completed(running):
            job = running[ended]
            results[job] = ended.result()
            print(f"{job.test} on {job.database}: {len(results[job])} cells", file=sys.stderr, flush=True)
    report = Report([result for job in jobs for result in results[job]])
    report.show()
    return report.exit_code


def suites_in(module: str) -> dict[str, Suite]:
    """The suites of a module's tests, keyed by test name."""
    suites = {name: getattr(value, SUITE, None) for name, value in vars(importlib.import_module(module)).items()}
    return {name: suite for name, suite in suites.items() if isinstance(suite, Suite)}


def run_job(job: Job) -> list[Result]:
    """Run one job. A full run calls this in another process."""
    suite = suites_in(job.module)[job.test]
    suite.property_examples = max(suite.property_examples, PROPERTY_EXAMPLES)
    return asyncio.run(run_suite(suite, databases=(job.database,), part=job.part))


class _BackgroundRunner:
    """An event loop in its own thread, and everything that suites keep between their tests."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="conformance", daemon=True)
        self._thread.start()
        self._suite_runners: dict[int, SuiteRunner] = {}
        self.sources: Sources = {}

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine on the loop and return its result."""
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def run_group(self, suite: Suite, group: Group) -> Sequence[Result]:
        """Run one group of a suite."""
        suite_runner = self._suite_runners.setdefault(id(suite), SuiteRunner(suite, self.sources))
        return self.run(suite_runner.run(group))

    def close(self) -> None:
        """Close the databases and stop the loop."""
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        for suite_runner in self._suite_runners.values():
            await suite_runner.close()
        await close_sources(self.sources)


_background_runners: list[_BackgroundRunner] = []


def _background_runner() -> _BackgroundRunner:
    if not _background_runners:
        _background_runners.append(_BackgroundRunner())
        atexit.register(_close_background_runner)
    return _background_runners[0]


def _close_background_runner() -> None:
    while _background_runners:
        _background_runners.pop().close()
