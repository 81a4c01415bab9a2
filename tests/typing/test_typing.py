"""mypy and pyright infer types from a declaration to its result and refuse each mistake where it is written."""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RIGHT_FORMS = HERE / "right_forms.py"
MISTAKES = HERE / "mistakes.py"
MARK = re.compile(r"# refused by (mypy|pyright): (.+)")

Faults = Mapping[tuple[Path, int], list[str]]
"""A checker's messages, by file and line."""


def mypy(_: Path) -> Faults:
    """The errors that mypy reports for both files."""
    command = [sys.executable, "-m", "mypy", "--output=json", str(RIGHT_FORMS), str(MISTAKES)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    faults: defaultdict[tuple[Path, int], list[str]] = defaultdict(list)
    assert not ran.stderr, ran.stderr
    for line in ran.stdout.splitlines():
        fault = json.loads(line)
        if fault["severity"] == "error":
            faults[ROOT / fault["file"], fault["line"]].append(fault["message"])
    return faults


def pyright(tmp_path: Path) -> Faults:
    """The errors that pyright reports for both files.

    It runs with its own configuration, because the project's configuration excludes the file of mistakes.
    """
    configuration = tmp_path / "pyrightconfig.json"
    checked = {
        "include": [os.path.relpath(file, tmp_path) for file in (RIGHT_FORMS, MISTAKES)],
        "extraPaths": [str(ROOT)],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
    }
    configuration.write_text(json.dumps(checked))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    report = json.loads(ran.stdout)
    assert report["summary"]["filesAnalyzed"] == 2, ran.stdout
    faults: defaultdict[tuple[Path, int], list[str]] = defaultdict(list)
    for fault in report["generalDiagnostics"]:
        line: int = fault["range"]["start"]["line"] + 1
        faults[Path(fault["file"]), line].append(fault["message"])
    return faults


def expected(checker: str) -> dict[int, str]:
    """The line of each mistake, with a part of the checker's expected message."""
    mistakes: dict[int, str] = {}
    waiting: str | None = None
    for number, line in enumerate(MISTAKES.read_text().splitlines(), start=1):
        mark = MARK.fullmatch(line.strip())
        if mark and mark[1] == checker:
            waiting = mark[2]
        elif not mark and waiting is not None:
            mistakes[number] = waiting
            waiting = None
    return mistakes


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_right_forms_are_accepted_and_each_mistake_is_refused(
    checker: Callable[[Path], Faults], tmp_path: Path
) -> None:
    mistakes = expected(checker.__name__)

    faults = checker(tmp_path)

    assert [(line, messages) for (file, line), messages in faults.items() if file == RIGHT_FORMS] == []
    refused = {line: messages for (file, line), messages in faults.items() if file == MISTAKES}
    assert sorted(refused) == sorted(mistakes)
    unlike = {
        line: (part, refused[line])
        for line, part in mistakes.items()
        if not any(part in message for message in refused[line])
    }
    assert unlike == {}


def test_both_checkers_have_an_expected_message_for_each_mistake() -> None:
    assert list(expected("mypy")) == list(expected("pyright"))
    assert len(expected("mypy")) > 40
