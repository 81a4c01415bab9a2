"""What the command line does without a server: it explains events and rejects invalid ones."""

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from events.account import AccountCreated, MoneyTransferRequested
from orchestrator.protocol.messages.unwrapping import parse
from tests.cli.conftest import a_transfer
from tests.cli.shell import SCRIPT, Shell, ended

MONEY = {"amount_minor": 1, "currency": "USD"}
WRONG = {
    "a missing field": (a_transfer(user_id=None), "user_id"),
    "an extra field": (a_transfer(colour="red"), "colour"),
    "a zero amount": (a_transfer(amount={**MONEY, "amount_minor": 0}), "amount"),
    "a negative amount": (a_transfer(amount={**MONEY, "amount_minor": -1}), "amount"),
    "NaN": (a_transfer(amount={**MONEY, "amount_minor": float("nan")}), "amount.amount_minor"),
    "infinity": (a_transfer(amount={**MONEY, "amount_minor": float("inf")}), "amount.amount_minor"),
    "a float": (a_transfer(amount={**MONEY, "amount_minor": 1.0}), "amount.amount_minor"),
    "a string for a number": (a_transfer(amount={**MONEY, "amount_minor": "1"}), "amount.amount_minor"),
    "a boolean for a number": (a_transfer(amount={**MONEY, "amount_minor": True}), "amount.amount_minor"),
    "an unknown currency": (a_transfer(amount={**MONEY, "currency": "XXX"}), "amount.currency"),
    "an event over the size limit": (a_transfer(user_id="u" * 300_000), "user_id"),
    "a NUL": (a_transfer(user_id="a\x00b"), "user_id"),
    "a list": ("[]", "object"),
    "not JSON": ("{user_id: olena}", "JSON"),
    "nothing": ("", "JSON"),
}


@pytest.mark.parametrize(("payload", "name"), WRONG.values(), ids=WRONG.keys())
async def test_an_invalid_event_is_rejected_before_any_connection_and_its_field_is_named(
    payload: str, name: str, nowhere: Shell
) -> None:
    # Sent by stdin, because an argument is limited to 128 KiB. A connection attempt would end in exit code 3.
    ran = await nowhere.run("publish", "MONEY_TRANSFER_REQUESTED", "-", stdin=payload)

    assert ran.code == 2, ran
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("MONEY_TRANSFER_REQUESTED: ")
    assert name in ran.err


async def test_an_invalid_event_is_rejected_in_json_too(nowhere: Shell) -> None:
    ran = await nowhere.run("publish", "MONEY_TRANSFER_REQUESTED", a_transfer(user_id=None), "--follow", "--json")

    assert ran.code == 2, ran
    assert ran.document == {
        "error": {"code": "event.invalid", "message": "MONEY_TRANSFER_REQUESTED: user_id: Field required"}
    }


async def test_an_unknown_type_is_rejected_with_similar_types(nowhere: Shell) -> None:
    ran = await nowhere.run("publish", "MoneyTransferRequest", a_transfer())

    assert ran.code == 2, ran
    assert (
        "'MoneyTransferRequest' is not an event type of this application; did you mean MONEY_TRANSFER_REQUESTED"
        in ran.err
    )


async def test_a_type_without_similar_ones_is_rejected_with_the_types_that_start_sagas(nowhere: Shell) -> None:
    ran = await nowhere.run("publish", "XYZ", "{}", "--json")

    assert ran.code == 2, ran
    assert ran.document["error"]["code"] == "event.unknown_type"
    assert "ACCOUNT_CREATED, ACCOUNT_VALUE_EDIT_REQUESTED, " in ran.document["error"]["message"]


async def test_an_event_without_a_listener_is_rejected(nowhere: Shell) -> None:
    payload = json.dumps({"user_id": "olena", "account_id": "a"})

    ran = await nowhere.run("publish", "ACCOUNT_CREATION_COMPLETED", payload)

    assert ran.code == 2, ran
    assert "no orchestrator listens" in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("publish",),
        ("publish", "MONEY_TRANSFER_REQUESTED"),
        ("publish", "MONEY_TRANSFER_REQUESTED", a_transfer(), "--event-id", "no id!"),
        ("publish", "MONEY_TRANSFER_REQUESTED", a_transfer(), "--example"),
        ("publish", "MONEY_TRANSFER_REQUESTED", a_transfer(), "--timeout", "nan"),
        ("publish", "MONEY_TRANSFER_REQUESTED", a_transfer(), "--timeout", "-1"),
        ("publish", "MONEY_TRANSFER_FAILED", "--example"),
        ("list", "--phase", "sideways"),
        ("list", "--limit", "0"),
        ("events", "XYZ"),
        ("status",),
        ("cancel",),
        ("cancel", "order-17", "--timeout", "inf"),
        ("retry",),
        ("skip", "order-17", "--reason", "by hand"),
        ("skip", "order-17", "two", "--reason", "by hand"),
        ("skip", "order-17", "2", "--reason", " "),
        ("sing",),
    ],
    ids=" ".join,
)
async def test_misuse_is_exit_code_2_with_a_sentence_and_a_json_document(
    arguments: tuple[str, ...], nowhere: Shell
) -> None:
    plain, in_json = await asyncio.gather(nowhere.run(*arguments), nowhere.run(*arguments, "--json"))

    assert plain.code == 2, plain
    assert plain.out == ""
    assert plain.err
    assert "Traceback" not in plain.err
    assert in_json.code == 2, in_json
    assert in_json.document["error"]["message"].strip() == plain.err.strip()


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--timeout", "1", "--json")])
async def test_an_unreachable_server_is_exit_code_3_soon(arguments: tuple[str, ...], nowhere: Shell) -> None:
    began = time.monotonic()

    ran = await nowhere.run("publish", "MONEY_TRANSFER_REQUESTED", a_transfer(), *arguments)

    assert ran.code == 3, ran
    assert time.monotonic() - began < 15
    assert nowhere.variables["TEMPORAL_ADDRESS"] in ran.err
    assert "Traceback" not in ran.err
    if arguments:
        assert ran.document["error"]["code"] == "unreachable"


@pytest.mark.parametrize("arguments", [("list",), ("status", "order-17")])
async def test_a_database_on_which_no_worker_has_run_is_reported_and_not_created(
    arguments: tuple[str, ...], nowhere: Shell, tmp_path: Path
) -> None:
    plain = await nowhere.run(*arguments)
    in_json = await nowhere.run(*arguments, "--json")

    assert plain.code == in_json.code == 3, plain
    assert "no worker has run on it" in plain.err
    assert in_json.document["error"]["code"] == "database.no_tables"
    assert "state" not in os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("file", "worker", "server"),
    [
        (None, "`orchestrator worker`", "`orchestrator dev`"),
        ('[tool.orchestrator]\nworker_command = "make work"\ndev_command = "make all"\n', "`make work`", "`make all`"),
    ],
    ids=["a project of its own", "a project with other commands"],
)
async def test_a_message_recommends_a_command_that_exists_in_the_project(
    file: str | None, worker: str, server: str, nowhere: Shell, tmp_path: Path
) -> None:
    if file is not None:
        (tmp_path / "pyproject.toml").write_text(file)
    here = Shell(nowhere.variables, tmp_path)

    without_worker, without_server = await asyncio.gather(here.run("list"), here.run("list", "--parked"))

    assert worker in without_worker.err
    assert server in without_server.err
    assert "make up" not in without_worker.err + without_server.err


async def test_a_database_without_tables_is_reported(nowhere: Shell, tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()

    ran = await nowhere.at(ORCHESTRATOR_DATABASE_URL=f"sqlite:///{tmp_path / 'empty.db'}").run("list", "--json")

    assert ran.code == 3, ran
    assert ran.document["error"]["code"] == "database.no_tables"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("postgresql://nobody:secret@127.0.0.1:9/none", "unreachable"),
        ("nonsense", "database.misconfigured"),
        ("mysql://host/name", "database.misconfigured"),
    ],
)
async def test_an_unreachable_database_is_exit_code_3_and_its_password_is_hidden(
    url: str, code: str, nowhere: Shell
) -> None:
    ran = await nowhere.at(ORCHESTRATOR_DATABASE_URL=url).run("list", "--json")

    assert ran.code == 3, ran
    assert ran.document["error"]["code"] == code
    assert "secret" not in ran.out + ran.err
    assert "Traceback" not in ran.err


async def test_invalid_settings_are_misuse(nowhere: Shell) -> None:
    ran = await nowhere.at(ORCHESTRATOR_MAX_CONCURRENT_STEPS="many").run("list", "--json")

    assert ran.code == 2, ran
    assert "max_concurrent_steps" in ran.document["error"]["message"]


@pytest.mark.parametrize("event", [MoneyTransferRequested, AccountCreated])
@pytest.mark.parametrize("arguments", [(), ("--json",)])
async def test_an_example_is_a_valid_payload_and_nothing_else(
    event: type[MoneyTransferRequested | AccountCreated], arguments: tuple[str, ...], nowhere: Shell
) -> None:
    ran = await nowhere.run("publish", event.type_name(), "--example", *arguments)

    assert ran.code == 0, ran
    assert ran.err == ""
    assert parse(ran.out, event)


async def test_events_that_start_sagas_are_listed_first_with_their_fields(nowhere: Shell) -> None:
    plain = await nowhere.run("events")
    listed = (await nowhere.run("events", "--json")).document["events"]

    assert plain.code == 0, plain
    assert "starts MoneyTransfer" in plain.out
    assert [event["type"] for event in listed[:2]] == ["ACCOUNT_CREATED", "ACCOUNT_VALUE_EDIT_REQUESTED"]
    assert [bool(event["listeners"]) for event in listed] == [True] * 8 + [False] * 16
    [transfer] = [event for event in listed if event["type"] == "MONEY_TRANSFER_REQUESTED"]
    assert transfer["listeners"] == ["MoneyTransfer"]
    assert set(transfer["schema"]["required"]) == {"user_id", "from_account_id", "to_account_id", "amount"}
    fields = {field["name"]: field for field in transfer["fields"]}
    assert fields["amount"]["required"]
    assert fields["amount"]["description"] == "The amount to withdraw, in the source's currency."
    assert fields["amount"]["type"].startswith("{amount_minor: integer, currency: one of ")
    assert not fields["arriving"]["required"]
    assert plain.out.index("ACCOUNT_CREATED ") < plain.out.index("ACCOUNT_CREATION_COMPLETED ")


async def test_an_inherited_field_has_the_description_of_its_declaration(nowhere: Shell) -> None:
    failed = (await nowhere.run("events", "MONEY_TRANSFER_FAILED", "--json")).document

    fields = {field["name"]: field for field in failed["fields"]}
    assert fields["event_id"]["description"] == "The id of the triggering event."
    assert failed["produced_by"] == ["MoneyTransfer"]


async def test_a_suggested_command_is_printed_so_that_it_can_be_run(nowhere: Shell) -> None:
    started_by_path = await nowhere.at(PATH="/usr/bin:/bin").run("events")
    found_on_path = await nowhere.at(PATH=str(SCRIPT.parent)).run("events")

    assert started_by_path.out.splitlines()[-1].endswith(".venv/bin/orchestrator events ACCOUNT_CREATED")
    assert found_on_path.out.splitlines()[-1].endswith(": orchestrator events ACCOUNT_CREATED")


@pytest.mark.parametrize(("command", "code"), [("events --json", 0), ("events", 0), ("list --json", 3)])
async def test_a_reader_that_closes_the_pipe_early_changes_no_exit_code(
    command: str, code: int, nowhere: Shell
) -> None:
    typed = f"{SCRIPT} {command} | true; exit ${{PIPESTATUS[0]}}"

    ran = await ended(await nowhere.start("-c", typed, program=("bash",)))

    assert ran.code == code, ran
    assert "BrokenPipe" not in ran.err


async def test_help_and_version_work(nowhere: Shell) -> None:
    for arguments in ((), ("publish",), ("events",), ("status",), ("list",), ("locks",)):
        ran = await nowhere.run(*arguments, "--help")
        assert ran.code == 0, ran
        assert "Examples:" in ran.out
    assert (await nowhere.run("--version")).out.startswith("orchestrator 0.")
