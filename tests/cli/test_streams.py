"""A command's exit code says how its work ended, whatever happens to its standard streams."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE

import pytest

from tests.cli.shell import ROOT, SCRIPT, Ran, Shell


async def in_bash(shell: Shell, command: str, **variables: str) -> Ran:
    """Run a bash command line in which `orchestrator` and `python` are those of this checkout."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("ORCHESTRATOR_", "TEMPORAL_"))
    }
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", f'orchestrator() {{ {SCRIPT} "$@"; }}; python() {{ {sys.executable} "$@"; }}; {command}'),
        cwd=ROOT,
        stdout=PIPE,
        stderr=PIPE,
        env={**inherited, **shell.variables, **variables},
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


FULL = "The answer could not be written to stdout (No space left on device), but the command did its work.\n"


@pytest.mark.parametrize(
    ("command", "code", "err"),
    [
        pytest.param("orchestrator events >&-", 0, "", marks=pytest.mark.exhaustive),
        ("orchestrator diagram MoneyTransfer >&- 2>&- <&-", 0, ""),
        ("orchestrator events >/dev/full", 74, FULL),
        pytest.param("orchestrator events --json >/dev/full", 74, FULL, marks=pytest.mark.exhaustive),
        pytest.param("orchestrator diagram MoneyTransfer >/dev/full", 74, FULL, marks=pytest.mark.exhaustive),
        ("orchestrator diagram Nobody >/dev/full 2>/dev/full", 2, ""),
        pytest.param(
            "orchestrator events | head -1 >/dev/null; exit ${PIPESTATUS[0]}", 0, "", marks=pytest.mark.exhaustive
        ),
    ],
)
async def test_closed_or_full_streams_do_not_look_like_a_failed_saga(
    nowhere: Shell, command: str, code: int, err: str
) -> None:
    ran = await in_bash(nowhere, command)

    assert (ran.code, ran.err) == (code, err), ran


async def test_a_closed_stdin_is_an_invalid_payload(nowhere: Shell) -> None:
    ran = await in_bash(nowhere, "orchestrator publish MONEY_TRANSFER_REQUESTED - <&-")

    assert ran.code == 2, ran
    assert ran.err.startswith("MONEY_TRANSFER_REQUESTED: ")
    assert ran.err.count("\n") == 1


async def test_an_example_is_valid_json_in_any_encoding(nowhere: Shell) -> None:
    command = "orchestrator publish MONEY_TRANSFER_REQUESTED --example"
    ran = await in_bash(nowhere, command, PYTHONIOENCODING="ascii")

    assert ran.code == 0, ran
    assert isinstance(json.loads(ran.out), dict)


@pytest.mark.parametrize(
    ("command", "settings", "named"),
    [
        ("python worker.py", {"ORCHESTRATOR_PROCESSES": "many"}, "processes"),
        ("orchestrator list", {"ORCHESTRATOR_DATABASES": "no JSON"}, "databases"),
        ("python -m starter.up", {"ORCHESTRATOR_LOG_LEVEL": "loud"}, "log_level"),
        ("orchestrator list", {"ORCHESTRATOR_DATABASE_URL": " "}, "ORCHESTRATOR_DATABASE_URL is set and empty"),
        pytest.param(
            "python worker.py --no-supervisor",
            {"ORCHESTRATOR_PACKAGES": ","},
            "packages",
            marks=pytest.mark.exhaustive,
        ),
        pytest.param(
            "python -m starter rates show", {"ORCHESTRATOR_POOL_SIZE": "0"}, "pool_size", marks=pytest.mark.exhaustive
        ),
    ],
)
async def test_invalid_settings_give_one_sentence_and_exit_code_2_in_every_command(
    nowhere: Shell, command: str, settings: dict[str, str], named: str
) -> None:
    ran = await in_bash(nowhere.at(**settings), command)

    assert ran.code == 2, ran
    assert named in ran.err
    assert "Traceback" not in ran.err
    assert len(ran.err.strip().splitlines()) == 1
