"""An application in one file works, however its worker is started."""

import signal
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from temporalio.client import Client

from tests.cli.shell import ROOT, SCRIPT, Shell, ended

APPLICATION = Path(__file__).with_name("one_file.py")
WAYS = [
    pytest.param([str(APPLICATION)], "one_file", APPLICATION.parent, id="as a script"),
    pytest.param(
        ["-m", "tests.worker.one_file", "--processes", "2"],
        "tests.worker.one_file",
        ROOT,
        id="as a module, by two processes",
        marks=pytest.mark.exhaustive,
    ),
    pytest.param([str(SCRIPT), "worker"], "tests.worker.one_file", ROOT, id="by the command"),
    pytest.param(
        ["-m", "orchestrator", "worker", "--processes", "2"],
        "one_file",
        APPLICATION.parent,
        id="by the command as a module, with two processes",
        marks=pytest.mark.exhaustive,
    ),
    pytest.param(
        ["worker.py", "--no-supervisor"],
        "tests.worker.one_file",
        ROOT,
        id="by a separate worker",
        marks=pytest.mark.exhaustive,
    ),
]


@pytest.mark.parametrize(("command", "package", "folder"), WAYS)
async def test_an_application_in_one_file_works(
    client: Client, tmp_path: Path, command: list[str], package: str, folder: Path
) -> None:
    shell = Shell(
        {
            "TEMPORAL_ADDRESS": client.service_client.config.target_host,
            "ORCHESTRATOR_STATE_DIR": str(tmp_path),
            "ORCHESTRATOR_TASK_QUEUE": f"one-file-{uuid4()}",
            "ORCHESTRATOR_PACKAGES": package,
            "ORCHESTRATOR_RECOVERY_INTERVAL": "0",
        },
        folder,
    )
    worker = await shell.start(*command, program=(sys.executable,))

    published = await shell.run("publish", "ORDER_PLACED", '{"thing": "tea"}', "--timeout", "40", "--json")
    status = await shell.run("status", published.document["event_id"], "--json")
    worker.send_signal(signal.SIGTERM)
    stopped = await ended(worker)

    # Operation names are recorded, so they are the same in a supervised process, in a script and on the command line.
    assert [step["operation"] for step in status.document["sagas"][0]["steps"]] == [
        "one_file.stock",
        "one_file.reserve",
    ]
    assert published.code == 0, f"{published}\n{stopped}"
    assert published.document["sagas"][0]["outcome"]["data"] == {"left": 2}
    assert stopped.code == 0, stopped
    assert "Traceback" not in stopped.err
