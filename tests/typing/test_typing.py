"""Types flow from a declaration to its result, and a mistake is refused where it is written: by mypy and by pyright."""

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
"""What a checker says, by file and line."""


def mypy(_: Path) -> Faults:
    """What mypy says about both files."""
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
    """What pyright says about both files. It needs a configuration of its own: the project's leaves mistakes out."""
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
    told = json.loads(ran.stdout)
    assert told["summary"]["filesAnalyzed"] == 2, ran.stdout
    faults: defaultdict[tuple[Path, int], list[str]] = defaultdict(list)
    for fault in told["generalDiagnostics"]:
        line: int = fault["range"]["start"]["line"] + 1
        faults[Path(fault["file"]), line].append(fault["message"])
    return faults


def expected(checker: str) -> dict[int, str]:
    """Line of each mistake, and a part of what the checker has to say."""
    found: dict[int, str] = {}
    waiting: str | None = None
    for number, line in enumerate(MISTAKES.read_text().splitlines(), start=1):
        mark = MARK.fullmatch(line.strip())
        if mark and mark[1] == checker:
            waiting = mark[2]
        elif not mark and waiting is not None:
            found[number] = waiting
            waiting = None
    return found


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_right_forms_are_accepted_and_each_mistake_is_refused(
    checker: Callable[[Path], Faults], tmp_path: Path
) -> None:
    mistakes = expected(checker.__name__)

    faults = checker(tmp_path)

    assert [(line, said) for (file, line), said in faults.items() if file == RIGHT_FORMS] == []
    refused = {line: said for (file, line), said in faults.items() if file == MISTAKES}
    assert sorted(refused) == sorted(mistakes)
    unlike = {
        line: (part, refused[line])
        for line, part in mistakes.items()
        if not any(part in message for message in refused[line])
    }
    assert unlike == {}


def test_both_checkers_are_asked_about_the_same_mistakes() -> None:
    assert list(expected("mypy")) == list(expected("pyright"))
    assert len(expected("mypy")) > 40
