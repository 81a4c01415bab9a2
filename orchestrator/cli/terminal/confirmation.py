"""Asking a person before something is changed."""

import sys

import typer

from orchestrator.cli.terminal.exit_codes import Stopped
from orchestrator.cli.terminal.output import Output

_AGREED = ("y", "yes")


def ask(question: str, output: Output, *, is_agreed: bool) -> None:
    """Go on only if the person agrees.

    Args:
        question: what is to be done, e.g. `Undo it?`.
        output: the command's voice; the question goes to stderr, so that stdout stays the answer.
        is_agreed: `--yes` was given, so nobody is asked.

    Raises:
        typer.TyperException: nobody can be asked here.
        Stopped: the person does not agree.
        typer.Abort: Ctrl-C, or the input has ended.
    """
    if is_agreed:
        return
    if not sys.stdin.isatty():
        raise typer.TyperException(
            "This is no terminal, so nobody can be asked, and nothing was done. Add --yes to do it."
        )
    output.question(f"{question} [y/N] ")
    answer = sys.stdin.readline()
    if not answer:
        raise typer.Abort
    if answer.strip().lower() not in _AGREED:
        raise Stopped("Nothing was done.")
