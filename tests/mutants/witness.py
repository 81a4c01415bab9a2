"""A pytest plugin for the copy in which mutants live: what ran, what failed, in which phase and with what.

Loaded with `-p tests.mutants.witness`. It refuses to run on any other engine than the copy's own.
"""

import json
import os
from collections.abc import Generator
from pathlib import Path

import pytest

import orchestrator

STATEMENT = "MUTANTS_STATEMENT"
"""Environment variable: the file to write, a JSON object a line."""


def pytest_configure(config: pytest.Config) -> None:
    """Make sure that what is tested is what was broken."""
    tested = Path(orchestrator.__file__).resolve()
    if not tested.is_relative_to(config.rootpath.resolve()):
        raise pytest.UsageError(f"the tests would run on {tested.parent}, which is not the copy's engine")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write down how each phase of each test ended."""
    report = yield
    raised = call.excinfo
    seen = {
        "test": item.nodeid,
        "phase": report.when,
        "outcome": report.outcome,
        "raised": [base.__name__ for base in raised.type.__mro__] if raised else [],
        "told": raised.exconly(tryshort=True) if raised else "",
    }
    with Path(os.environ[STATEMENT]).open("a") as statement:
        statement.write(json.dumps(seen) + "\n")
    return report
