"""The whole benchmark runs at its smallest size, on real servers with real worker processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measuring import PROC
from tests.docs.markdown import ROOT

SMALLEST = "--rounds 1 --seconds 0.1 --at-once 1 --alone 1 --processes 1 --journal wal"


@pytest.mark.skipif(not (PROC / "self" / "stat").exists(), reason="CPU is read from /proc")
def test_every_form_runs_and_every_goal_is_measured(tmp_path: Path) -> None:
    output = tmp_path / "latest.json"

    bench = subprocess.run(
        [sys.executable, "-m", "benchmarks", *SMALLEST.split(), "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert bench.returncode == 0, bench.stderr  # also if goals are missed
    written = json.loads(output.read_text())
    assert [(row["placement"], row["transactions"]) for row in written["rows"]] == [
        ("plain", 3),
        ("plain", 1),
        ("own execution", 3),
        ("own execution", 1),
        ("partitions", 3),
        ("partitions", 1),
    ]
    assert all(row["throughput"]["median"] > 0 for row in written["rows"])
    assert {row["journal"] for row in written["rows"]} == {"wal"}
    assert all(ratio["ratio"] is not None for ratio in written["ratios"])
    [own] = [ratio for ratio in written["ratios"] if ratio["measure"] == "history events a saga, own execution"]
    assert own["met"], "the number of history events does not depend on the machine"
    assert "goals met: " in bench.stdout
