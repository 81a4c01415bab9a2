"""Publishing from the command line, on a real server with a worker process."""

import asyncio
import json
import signal

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.protocol.messages.envelope import wrap
from tests.cli.conftest import a_transfer
from tests.cli.shell import Shell, ended
from tests.cli.test_without_a_server import WRONG
from tests.house import new_id

TYPE = "MONEY_TRANSFER_REQUESTED"


async def is_known(client: Client, event_id: str) -> bool:
    """Tell whether the event has an execution."""
    try:
        await client.get_workflow_handle(f"MoneyTransfer/event/{event_id}").describe()
    except RPCError as fault:
        if fault.status is not RPCStatusCode.NOT_FOUND:
            raise
        return False
    return True


async def test_a_followed_event_shows_each_step_and_its_outcome(shop: Shell) -> None:
    event_id = new_id()

    ran = await shop.run("publish", TYPE, a_transfer(), "--follow", "--event-id", event_id)

    assert ran.code == 0, ran
    steps = ["account.currency_of", "metadata.convert", "account.withdraw", "account.deposit"]
    lines = [line.split() for line in ran.out.splitlines() if line.startswith("  done ")]
    assert [words[-1] for words in lines] == [*steps, "activity_log.record_transfer", "completed"]
    assert f"MoneyTransfer/event/{event_id}" in ran.out
    assert f"/namespaces/default/workflows/MoneyTransfer%2Fevent%2F{event_id}/" in ran.out
    assert ran.out.splitlines()[-1].startswith("completed MONEY_TRANSFER_COMPLETED {")
    assert ran.err == ""


async def test_a_refused_event_is_exit_code_1_with_its_reason_and_what_was_undone(shop: Shell) -> None:
    # More than the target can hold: the withdrawal is done and the deposit is refused.
    arriving = {"amount_minor": 10**15, "currency": "EUR"}

    ran = await shop.run("publish", TYPE, a_transfer(arriving=arriving), "--follow")

    assert ran.code == 1, ran
    assert "  refused   step 2: account.deposit  (account.balance_limit: " in ran.out
    assert "  done      undo step 1: account.put_back" in ran.out
    last = ran.out.splitlines()[-1]
    assert last.startswith("failed    account.balance_limit: ")
    assert last.endswith("undone: account.withdraw")


@pytest.mark.parametrize("wait", [("--follow",), ("--timeout", "30")])
@pytest.mark.parametrize(("target", "code", "phase"), [("olena-eur", 0, "completed"), ("nowhere", 1, "failed")])
async def test_json_is_one_document_with_the_outcome(
    wait: tuple[str, ...], target: str, code: int, phase: str, shop: Shell
) -> None:
    event_id = new_id()

    ran = await shop.run("publish", TYPE, a_transfer(to_account_id=target), "--event-id", event_id, "--json", *wait)

    assert ran.code == code, ran
    assert ran.document["event_id"] == event_id
    [saga] = ran.document["sagas"]
    assert saga["workflow_id"] == f"MoneyTransfer/event/{event_id}"
    assert saga["phase"] == phase
    assert saga["outcome"]["type"] == f"MONEY_TRANSFER_{phase.upper()}"
    assert saga["error_code"] == (None if code == 0 else "account.not_found")
    assert bool(saga["progress"]) == ("--follow" in wait)


async def test_an_event_is_accepted_at_once_and_the_next_command_is_printed(deserted: Shell, client: Client) -> None:
    ran = await deserted.run("publish", TYPE, "-", stdin=a_transfer())

    assert ran.code == 0, ran
    printed = ran.out.splitlines()
    event_id = printed[0].rpartition(" ")[2]
    assert printed[-1].endswith(f"orchestrator status {event_id}")
    assert await is_known(client, event_id)


async def test_an_accepted_event_is_one_document(deserted: Shell, client: Client) -> None:
    ran = await deserted.run("publish", TYPE, a_transfer(), "--json")

    assert ran.code == 0, ran
    assert set(ran.document) == {"event_id", "event_type", "sagas"}
    assert await is_known(client, ran.document["event_id"])


async def test_an_unfinished_event_is_exit_code_4_and_says_that_no_worker_runs(deserted: Shell) -> None:
    ran = await deserted.run("publish", TYPE, a_transfer(), "--timeout", "1", "--json")

    assert ran.code == 4, ran
    assert ran.document["error"]["code"] == "saga.not_finished"
    assert "no worker polls the task queue" in ran.document["error"]["message"]
    assert ran.document["sagas"][0]["phase"] is None
    assert "orchestrator status" in ran.err


async def test_following_without_a_worker_says_once_how_to_start_one(deserted: Shell) -> None:
    ran = await deserted.run("publish", TYPE, a_transfer(), "--follow", "--timeout", "7")

    assert ran.code == 4, ran
    remarks = ran.err.splitlines()
    assert remarks[0].startswith("No worker polls the task queue")
    assert remarks[0].endswith("python worker.py")
    assert [line.startswith("No worker") for line in remarks].count(True) == 1


async def test_ctrl_c_stops_following_and_the_saga_continues(deserted: Shell, client: Client) -> None:
    event_id = new_id()
    process = await deserted.start("publish", TYPE, a_transfer(), "--follow", "--event-id", event_id)
    assert process.stdout is not None
    async with asyncio.timeout(30):
        line = await process.stdout.readline()
    assert line.startswith(b"accepted"), line

    process.send_signal(signal.SIGINT)
    ran = await ended(process)

    assert ran.code == 130, ran
    assert "the saga continues" in ran.err
    assert f"orchestrator status {event_id}" in ran.err
    assert "Traceback" not in ran.err
    assert await is_known(client, event_id)


async def test_a_repeat_has_the_first_outcome_and_says_so(shop: Shell) -> None:
    event_id = new_id()
    first = await shop.run("publish", TYPE, a_transfer(), "--event-id", event_id, "--timeout", "30", "--json")

    plain = await shop.run("publish", TYPE, a_transfer(), "--event-id", event_id)
    again = await shop.run("publish", TYPE, a_transfer(), "--event-id", event_id, "--json")

    assert plain.code == 0, plain
    assert "A repeat" in plain.out
    assert "completed MONEY_TRANSFER_COMPLETED" in plain.out
    assert again.document["sagas"][0]["is_repeat"]
    assert not first.document["sagas"][0]["is_repeat"]
    assert again.document["sagas"][0]["outcome"] == first.document["sagas"][0]["outcome"]


async def test_a_failed_event_published_again_has_the_same_outcome_and_shows_that_nothing_ran(shop: Shell) -> None:
    event_id = new_id()
    payload = a_transfer(to_account_id="nowhere")
    first = await shop.run("publish", TYPE, payload, "--event-id", event_id, "--follow", "--json")

    again = await shop.run("publish", TYPE, payload, "--event-id", event_id, "--follow", "--json")

    assert (first.code, again.code) == (1, 1), again
    assert again.document["sagas"][0]["outcome"] == first.document["sagas"][0]["outcome"]
    assert {step["state"] for step in again.document["sagas"][0]["progress"]} == {"ended"}


@pytest.mark.parametrize("target", ["olena-eur", "nowhere"])
async def test_an_id_used_for_other_content_is_rejected(target: str, shop: Shell) -> None:
    event_id = new_id()
    await shop.run("publish", TYPE, a_transfer(to_account_id=target), "--event-id", event_id, "--follow")

    ran = await shop.run(
        "publish", TYPE, a_transfer(to_account_id="olena-jpy"), "--event-id", event_id, "--follow", "--json"
    )

    assert ran.code == 2, ran
    assert ran.document["error"]["code"] == "event.id_reused"


@pytest.mark.parametrize("fault", ["a zero amount", "an event over the size limit"])
async def test_an_invalid_event_is_not_sent(fault: str, shop: Shell, client: Client) -> None:
    """Other invalid events are rejected before any connection is made: see `test_without_a_server`."""
    event_id = new_id()

    ran = await shop.run("publish", TYPE, "-", "--event-id", event_id, "--follow", stdin=WRONG[fault][0])

    assert ran.code == 2, ran
    assert not await is_known(client, event_id)


async def test_an_account_created_from_its_example_can_receive_a_transfer(shop: Shell) -> None:
    example = json.loads((await shop.run("publish", "ACCOUNT_CREATED", "--example")).out)
    created = await shop.run("publish", "ACCOUNT_CREATED", json.dumps(example), "--follow")

    moved = await shop.run("publish", TYPE, a_transfer(to_account_id=example["account_id"]), "--follow")

    assert (created.code, moved.code) == (0, 0), moved


async def test_the_size_limit_applies_to_the_whole_event() -> None:
    """The command line checks the size of the payload, and the bus that of the envelope."""
    from orchestrator import DomainEvent, EventRejected
    from orchestrator.client.publishing.event_checks import envelope_of
    from tests.cast_events import CoinsMoveRequested
    from tests.house import CATALOG

    event: DomainEvent = CoinsMoveRequested(source="s" * 300_000, target="b", coins=1)

    with pytest.raises(EventRejected, match=r"its field source alone takes 300,002") as raised:
        envelope_of(CATALOG, event, event_id="one", source="tests")

    assert raised.value.code == "event.too_large"
    assert wrap(CoinsMoveRequested(source="a", target="b", coins=1), event_id="one", source="tests")
