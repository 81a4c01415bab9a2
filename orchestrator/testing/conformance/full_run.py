"""A full run, `python -m orchestrator.testing MODULE...`: every suite of these modules, and a count as the last line.

`--slice i/n` plays every n-th group of each suite: one fault of one example on one database.

Exit code: 0 if every cell was hit or declared, 1 if one failed or none was tried, 2 if there is nothing to play.
"""

import argparse
import asyncio
import importlib
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from orchestrator.store.connections.url import Dialect
from orchestrator.testing.conformance.entry_points import SUITE
from orchestrator.testing.conformance.report import Report, Result
from orchestrator.testing.conformance.suite import Suite, play_suite
from orchestrator.testing.slices import WHOLE, Slice

PROPERTY_EXAMPLES = 100
"""Calls that `do, then undo` tries for each step, at least."""


class Job(NamedTuple):
    """One suite on one kind of database."""

    module: str
    test: str
    database: Dialect
    part: Slice


def main(arguments: list[str]) -> int:
    """Play, print, and answer with the exit code."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.testing")
    parser.add_argument("module", nargs="*", help="has `test_... = conformance(...)`")
    parser.add_argument(
        "--slice", type=Slice.parse, default=WHOLE, metavar="i/n", help="every n-th group of each suite"
    )
    given = parser.parse_args(arguments)
    modules: list[str] = given.module
    sys.path.insert(0, str(Path.cwd()))
    jobs = [
        Job(module, name, database, given.slice)
        for module in modules
        for name, suite in sorted(suites_in(module).items())
        for database in suite.databases
    ]
    if not jobs:
        print("There is nothing to play: name modules that have `test_... = conformance(...)`.", file=sys.stderr)
        return 2
    played: dict[Job, list[Result]] = {}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(play, job): job for job in jobs}
        for ended in as_completed(running):
            job = running[ended]
            played[job] = ended.result()
            print(f"{job.test} on {job.database}: {len(played[job])} cells", file=sys.stderr, flush=True)
    report = Report([result for job in jobs for result in played[job]])
    report.show()
    return report.exit_code


def suites_in(module: str) -> dict[str, Suite]:
    """The suites of a module's tests, by name."""
    found = {name: getattr(value, SUITE, None) for name, value in vars(importlib.import_module(module)).items()}
    return {name: suite for name, suite in found.items() if isinstance(suite, Suite)}


def play(job: Job) -> list[Result]:
    """One job, in a process of its own."""
    suite = suites_in(job.module)[job.test]
    suite.property_examples = max(suite.property_examples, PROPERTY_EXAMPLES)
    return asyncio.run(play_suite(suite, databases=(job.database,), part=job.part))
