"""Every command rejects an empty argument, which mostly comes from a shell variable that is not set."""

import pytest

from orchestrator.cli.main import run

EMPTY = {
    "an idempotency key": ["publish", "MONEY_TRANSFER_REQUESTED", "{}", "--event-id", ""],
    "with an equals sign": ["publish", "MONEY_TRANSFER_REQUESTED", "{}", "--event-id="],
    "blank": ["publish", "MONEY_TRANSFER_REQUESTED", "{}", "--event-id", " \t"],
    "a payload": ["publish", "MONEY_TRANSFER_REQUESTED", ""],
    "an event type": ["events", ""],
    "an event id": ["status", ""],
    "an orchestrator": ["list", "--orchestrator", ""],
    "a reason": ["skip", "order-17", "1", "--reason", ""],
    "a person": ["dead-letters", "drop", "7", "--reason", "no", "--by", ""],
    "a key": ["locks", ""],
    "a folder": ["catalog", "--folder", ""],
    "an age": ["purge", "--older-than", " "],
}


@pytest.mark.parametrize("arguments", EMPTY.values(), ids=EMPTY)
def test_an_empty_argument_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = run(arguments)

    output = capsys.readouterr()
    assert code == 2
    assert output.out == ""
    assert " is empty. Give it a value, or leave it out" in output.err
    assert output.err.count("\n") == 1
    option = next(
        (argument.partition("=")[0] for argument in reversed(arguments) if argument.startswith("--")), "Argument"
    )
    assert output.err.startswith(option)
