"""`orchestrator dead-letters`: lists, edits and sends again messages that could not be read or routed."""

import asyncio
import base64
from collections.abc import Sequence
from typing import Annotated

import typer

from orchestrator.cli.dead_letters.display import (
    ID,
    TYPE,
    Code,
    Limit,
    Name,
    Number,
    Since,
    Source,
    Type,
    attribute_in,
    document_of,
    format_message,
    link_of,
    parse_json,
    parse_since,
    require_letter,
    state_of,
    with_database,
    with_letters,
)
from orchestrator.cli.dead_letters.edit import edit
from orchestrator.cli.dead_letters.replay import replay
from orchestrator.cli.terminal.confirmation import ask
from orchestrator.cli.terminal.exit_codes import Exit
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.options import AsJson, Yes
from orchestrator.cli.terminal.output import Output, age_text, moment_json
from orchestrator.cli.terminal.person import By, Reason, check_has_words, decided_by
from orchestrator.client.dead_letters import DeadLetters
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.dead_letters.resolution import (
    Search,
    Settled,
    State,
    StoredDeadLetter,
    count_dead_letters,
    find_dead_letters,
    read_dead_letter,
)
from orchestrator.store.queries.sagas import namespace_of

_COUNT_LIMIT = 10_000
"""The number of dead letters after which counting stops."""
_SHOWN_LIMIT = 4_000
"""How many characters of a message `show` prints without `--full`."""

dead_letters = typer.Typer(add_completion=False, no_args_is_help=False, rich_markup_mode=None)


@dead_letters.callback(invoke_without_command=True)
def _dead_letters(context: typer.Context) -> int:
    """List, show, edit, replay or drop dead letters: messages that could not be read or routed.

    \b
    Examples:
      orchestrator dead-letters list                              the open dead letters, the newest first
      orchestrator dead-letters show 7                            one message, why it was not accepted, and its source
      orchestrator dead-letters edit 7 --set data.amount=500      save an edited copy; the original stays unchanged
      orchestrator dead-letters replay 8                          show what it would do, ask, and publish it
      orchestrator dead-letters drop 9 --reason "a test of ours"  settle it without a replay
    """
    if context.invoked_subcommand is None:
        Output().raw(context.get_help())
        return Exit.MISUSE
    return Exit.COMPLETED


@dead_letters.command("list")
def list_(
    source: Source = None,
    code: Code = None,
    event_type: Type = None,
    orchestrator: Name = None,
    since: Since = None,
    settled: Annotated[bool, typer.Option("--settled", help="List settled dead letters instead of open ones.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="List both open and settled dead letters.")] = False,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> int:
    """List dead letters, the newest first; only open ones, unless --settled or --all is given.

    \b
    Examples:
      orchestrator dead-letters list
      orchestrator dead-letters list --code event.unknown_type --since 2h
      orchestrator dead-letters list --all --source update --json
    """
    state = State.ALL if everything else State.SETTLED if settled else State.OPEN
    search = Search(
        state=state,
        source=source,
        code=code,
        event_type=event_type,
        orchestrator=orchestrator,
        since=parse_since(since),
        limit=limit,
    )
    output = Output(as_json)

    async def read(database: Database) -> tuple[Sequence[StoredDeadLetter], int]:
        return await find_dead_letters(database, search), await count_dead_letters(
            database, search, at_most=_COUNT_LIMIT
        )

    letters, count = asyncio.run(with_database(Settings(), read))
    if as_json:
        output.document({"dead_letters": [document_of(letter) for letter in letters], "count": count})
    elif not letters:
        output.line("No dead letter matches.")
    else:
        output.table(
            ("number", "code", "source", "type", "event id", "age", "state"), [_table_row(letter) for letter in letters]
        )
        output.line()
        total = f"{_COUNT_LIMIT} or more" if count == _COUNT_LIMIT else f"{count}"
        output.line(f"{len(letters)} of {total}. To show one: {command('dead-letters', 'show', str(letters[0].id))}")
    return Exit.COMPLETED


def _table_row(letter: StoredDeadLetter) -> Sequence[str]:
    return (
        str(letter.id),
        letter.code,
        letter.source,
        attribute_in(TYPE, letter),
        attribute_in(ID, letter),
        age_text(letter.created_at),
        state_of(letter),
    )


@dead_letters.command("show")
def show(
    number: Number,
    full: Annotated[bool, typer.Option("--full", help="Print the whole message, even if it is long.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print only the message, byte for byte, for a file or a pipe.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Show a dead letter: the message, why it was not accepted, where it came from, and how it was settled.

    The message may contain personal data. JSON is indented, other text is escaped, anything else is in hexadecimal.

    \b
    Examples:
      orchestrator dead-letters show 7
      orchestrator dead-letters show 7 --raw > message.json
      orchestrator dead-letters show 7 --json
    """
    settings, output = Settings(), Output(as_json)

    async def read(database: Database) -> tuple[StoredDeadLetter | None, str]:
        return await read_dead_letter(database, number), await namespace_of(database) or "default"

    stored, namespace = asyncio.run(with_database(settings, read))
    letter = require_letter(stored, number)
    if raw:
        output.content(letter.raw)
        return Exit.COMPLETED
    link = None if letter.edited_from or "/" not in letter.workflow_id else link_of(settings, namespace, letter)
    if as_json:
        document = document_of(letter) | {"link": link, "raw_base64": base64.b64encode(letter.raw).decode()}
        message = parse_json(letter.raw)
        output.document(document if message is None else document | {"message": message})
    else:
        _print_letter(letter, link, output, full=full)
    return Exit.COMPLETED


def _print_letter(letter: StoredDeadLetter, link: str | None, output: Output, *, full: bool) -> None:
    number = str(letter.id)
    output.state(state_of(letter), f"{letter.code}: {letter.reason}")
    output.line(f"  arrived {age_text(letter.created_at)} ago ({moment_json(letter.created_at)}) by {letter.source}")
    if letter.edited_from is not None:
        output.line(f"  edited copy of dead letter {letter.edited_from}, whose message is unchanged")
    else:
        output.line(f"  from {letter.workflow_id}, run {letter.run_id}, message {letter.position}")
    if link:
        output.line(f"  {link}")
    if letter.settled_at is not None:
        output.line(f"  settled {age_text(letter.settled_at)} ago: {letter.settled_as}")
    text, format_name = format_message(letter.raw)
    stored = "" if letter.is_whole else f", {letter.stored_size:,} of them stored so far"
    output.line(f"  {letter.size:,} bytes{stored}, {format_name}:")
    shown = text if full else text[:_SHOWN_LIMIT]
    output.line(shown)
    if len(shown) < len(text):
        output.line(
            f"... The message is longer. To print all of it: {command('dead-letters', 'show', number, '--full')}"
        )
    if letter.is_open:
        output.line(f"To see what a replay would do: {command('dead-letters', 'replay', number)}")


@dead_letters.command("drop")
def drop(
    numbers: Annotated[
        list[int], typer.Argument(metavar="NUMBER...", help="The dead letters' numbers, as `list` shows them.")
    ],
    reason: Reason,
    by: By = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Settle dead letters that will not be replayed. They remain in the table, together with who decided this and why.

    \b
    Examples:
      orchestrator dead-letters drop 9 --reason "a test of ours"
      orchestrator dead-letters drop 9 10 --reason "sent again by hand, ticket 4711" --as olena --yes --json
    """
    check_has_words("--reason", reason)
    settings, output, who = Settings(), Output(as_json), decided_by(by)

    async def read(database: Database) -> list[StoredDeadLetter]:
        return [require_letter(await read_dead_letter(database, number), number) for number in numbers]

    for letter in asyncio.run(with_database(settings, read)):
        state = f"{letter.code}: {letter.reason}" if letter.is_open else f"already settled: {letter.settled_as}"
        output.line(f"Dead letter {letter.id}, {state}")
    ask("Drop it?" if len(numbers) == 1 else f"Drop these {len(numbers)}?", output, is_agreed=yes)

    async def settle(letters: DeadLetters) -> dict[int, Settled]:
        return {number: await letters.drop(number, by=who, reason=reason.strip()) for number in numbers}

    results = asyncio.run(with_letters(settings, settle, sends=False))
    for number, result in results.items():
        match result:
            case Settled.DONE:
                output.state("done", f"dead letter {number} is dropped")
            case Settled.BEFORE:
                output.line(f"Dead letter {number} was not changed, because it has already been settled.")
            case Settled.UNDER_WAY:
                output.line(f"Dead letter {number} was not changed, because it is being replayed.")
    if as_json:
        documents = [{"number": number, "became": result.value} for number, result in results.items()]
        output.document({"dead_letters": documents})
    return Exit.COMPLETED if set(results.values()) == {Settled.DONE} else Exit.MISUSE


dead_letters.command("edit")(edit)
dead_letters.command("replay")(replay)
