"""Asks the user to confirm before a command changes anything."""

import sys

import typer

from orchestrator.cli.terminal.exit_codes import Stopped
from orchestrator.cli.terminal.output import Output

_CONFIRMATIONS = ("y", "yes")


def ask(question: str, output: Output, *, is_agreed: bool) -> None:
    """Return only if the user confirms.

    Args:
        question: the question to ask, such as `Undo it?`.
        output: prints the question to stderr, so that stdout contains only the answer.
        is_agreed: whether `--yes` was given, in which case there is no question.

    Raises:
        typer.TyperException: stdin is not a terminal, so the question cannot be asked.
        Stopped: the user did not confirm.
        typer.Abort: the user pressed Ctrl-C, or the input ended.
    """
    if is_agreed:
        return
    if not sys.stdin.isatty():
        raise typer.TyperException(
            "Nothing was done, because this command asks for confirmation and stdin is not a terminal. "
            "Add --yes to confirm."
        )
    output.question(f"{question} [y/N] ")
    answer = sys.stdin.readline()
    if not answer:
        raise typer.Abort
    if answer.strip().lower() not in _CONFIRMATIONS:
        raise Stopped("Nothing was done.")
