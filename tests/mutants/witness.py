"""A pytest plugin for the copy with mutants: it reports which tests ran, and how and with which error each phase ended.

It is loaded with `-p tests.mutants.witness` and refuses to run on any engine other than the copy's.
"""

import json
import os
from collections.abc import Generator
from pathlib import Path

import pytest

import orchestrator

REPORT = "MUTANTS_REPORT"
"""Environment variable with the name of the file to write, one JSON object per line."""


def pytest_configure(config: pytest.Config) -> None:
    """Check that the tested engine is the copy's."""
    tested = Path(orchestrator.__file__).resolve()
    if not tested.is_relative_to(config.rootpath.resolve()):
        raise pytest.UsageError(f"the tests would run on {tested.parent}, which is not the copy's engine")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write how each phase of each test ended."""
    report = yield
    raised = call.excinfo
    phase = {
        "test": item.nodeid,
        "phase": report.when,
        "outcome": report.outcome,
        "raised": [base.__name__ for base in raised.type.__mro__] if raised else [],
        "message": raised.exconly(tryshort=True) if raised else "",
    }
    with Path(os.environ[REPORT]).open("a") as report_file:
        report_file.write(json.dumps(phase) + "\n")
    return report
