"""`orchestrator worker` reports what keeps it from starting, as a worker script does."""

import sys
from pathlib import Path

import pytest

from tests.cli.shell import SCRIPT, Shell, ended

FAULTY = "from orchestrator import Transaction, operation\n@operation\nasync def reserve(tx: Transaction) -> int: ...\n"


@pytest.mark.parametrize("program", [(str(SCRIPT),), (sys.executable, "-m", "orchestrator")], ids=["script", "module"])
async def test_a_worker_of_a_faulty_project_reports_the_fault_once(program: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(FAULTY)
    shell = Shell({"ORCHESTRATOR_PACKAGES": "shop"}, tmp_path)

    ran = await ended(await shell.start("worker", program=program))

    assert ran.code == 2, ran
    assert ran.err.startswith("1 problem found; nothing was started.\n  shop.py:2  reserve has no compensation")
    assert ran.err.count("shop.py:2") == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--processes", "2", "--no-supervisor"), "--no-supervisor runs one process, but 2 were requested"),
        (("--processes", "0"), "greater than or equal to 1"),
    ],
)
async def test_options_of_a_worker_that_do_not_fit_are_misuse(
    arguments: tuple[str, ...], text: str, nowhere: Shell
) -> None:
    ran = await nowhere.run("worker", *arguments)

    assert ran.code == 2, ran
    assert text in ran.err
