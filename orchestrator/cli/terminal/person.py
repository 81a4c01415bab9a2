"""The person who makes a decision, and the reason for it; both are stored with the decision."""

import getpass
from typing import Annotated

import typer

By = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="WHO", help="Who decides this; stored with the decision. Default: your system user name."
    ),
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; stored with the decision and shown later.")]


def this_person() -> str:
    """Return the system user's name, or `somebody` if there is none, as in some containers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "somebody"


def decided_by(by: str | None) -> str:
    """Return the name that a decision is stored under."""
    return (by or this_person()).strip() or "somebody"


def check_has_words(option: str, text: str | None) -> None:
    """Check that an option's text contains a letter or a digit, unless it was not given.

    Raises:
        typer.BadParameter: it contains neither.
    """
    if text is not None and not any(character.isalnum() for character in text):
        raise typer.BadParameter(
            f"{option} is stored for those who read it later, so {text!r} is not enough. Write a few words."
        )
