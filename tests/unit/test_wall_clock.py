"""The engine reads a worker's clock only in the places that are listed here, with the reason.

A time that is stored or compared comes from the database (`orchestrator.store.core.clock`) or from Temporal, because
the clocks of workers differ. A duration is measured with `time.monotonic`.
"""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

import orchestrator

ROOT = Path(orchestrator.__file__).parent
_READS = {
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
    "time": {"time", "time_ns", "gmtime", "localtime", "strftime"},
}
# The keys are files, or files with a function.
ALLOWED: Mapping[str, str] = {
    "protocol/messages/envelope.py:wrap": "what its publisher believes; nothing is decided by it",
    "protocol/messages/event_ids.py:import of time.time_ns": "an id sorts by it, and nothing is decided",
    "cli/terminal/output.py:age_text": "an age that is shown to a person",
    "cli/dead_letters/display.py:parse_since": "what a person means by an hour ago, to filter what is shown",
    "cli/diagnosis/blocked_reason.py": "an age and the time until the next attempt, shown to a person",
    "cli/embedded/live_view.py:_print_change": "how long a saga took, and when it got stuck, shown to a person",
    "client/executions/task_queues.py": "whether a worker has polled lately, for a message to a person",
    "worker/clocks.py:_worker_time": "compared with the other clocks, to warn of it",
    "store/retention.py:database_time": "the earlier one of two clocks, because what is deleted is gone",
}


def readings(file: Path) -> Iterable[str]:
    """Functions of a file that read the wall clock, as `file:function`."""
    name = file.relative_to(ROOT).as_posix()
    tree = ast.parse(file.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            for alias in node.names:
                if alias.name in _READS["time"]:
                    yield f"{name}:import of time.{alias.name}"
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute)):
            continue
        owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
        if node.attr in _READS.get(owner, ()):
            inside = [
                function for function in functions if function.lineno <= node.lineno <= (function.end_lineno or 0)
            ]
            yield f"{name}:{max(inside, key=lambda function: function.lineno).name if inside else '(module)'}"


def test_a_workers_clock_is_read_only_in_listed_places() -> None:
    found = {reading for file in ROOT.rglob("*.py") for reading in readings(file)}
    found = {reading.partition(":")[0] if reading.partition(":")[0] in ALLOWED else reading for reading in found}

    assert found - set(ALLOWED) == set(), "use orchestrator.store.core.clock, a time from Temporal, or time.monotonic"
    assert set(ALLOWED) - found == set(), "these places no longer read the clock: remove them from ALLOWED"


@pytest.mark.parametrize(
    "code",
    [
        "from datetime import datetime\ndef f(): return datetime.now()",
        "import datetime\ndef f(): return datetime.datetime.now()",
        "import time\ndef f(): return time.time()",
        "from time import time\n",
    ],
)
def test_each_way_to_read_the_clock_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    monkeypatch.setattr("tests.unit.test_wall_clock.ROOT", tmp_path)
    (tmp_path / "some.py").write_text(code)

    assert len(list(readings(tmp_path / "some.py"))) == 1
