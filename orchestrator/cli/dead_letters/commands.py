"""`orchestrator dead-letters`: messages that were no events of ours, seen, mended, and sent again."""

import asyncio
import base64
from collections.abc import Sequence
from typing import Annotated

import typer

from orchestrator.cli.dead_letters.display import (
    ID,
    TYPE,
    By,
    Code,
    Door,
    Limit,
    Name,
    Number,
    Since,
    Type,
    document_of,
    link_of,
    moment,
    named,
    parsed,
    state_of,
    text_of,
    there,
    who_says,
    with_database,
    with_letters,
)
from orchestrator.cli.dead_letters.edit import edit
from orchestrator.cli.dead_letters.replay import replay
from orchestrator.cli.terminal.confirmation import ask
from orchestrator.cli.terminal.exit_codes import Exit
from orchestrator.cli.terminal.invocation import command
from orchestrator.cli.terminal.options import AsJson, Yes
from orchestrator.cli.terminal.output import Output, ago, moment_json
from orchestrator.client.dead_letters import DeadLetters
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.dead_letters.resolution import (
    LetterView,
    Search,
    Settled,
    State,
    count_letters,
    find_letters,
    letter_of,
)
from orchestrator.store.queries.sagas import namespace_of

_COUNTED = 10_000
"""Letters at which counting stops."""
_SHOWN = 4_000
"""Characters of a message that `show` prints by itself."""

dead_letters = typer.Typer(add_completion=False, no_args_is_help=False, rich_markup_mode=None)


@dead_letters.callback(invoke_without_command=True)
def _dead_letters(context: typer.Context) -> int:
    """Messages that were no events of ours, from whichever door: see them, mend them, send them again, or drop them.

    \b
    Examples:
      orchestrator dead-letters list                              what is open, the newest first
      orchestrator dead-letters show 7                            one message, with its reason and where it came from
      orchestrator dead-letters edit 7 --set data.amount=500      an edited copy; the original stays as it came
      orchestrator dead-letters replay 8                          says what it would do, asks, publishes it
      orchestrator dead-letters drop 9 --reason "a test of ours"  nobody will replay it
    """
    if context.invoked_subcommand is None:
        Output().raw(context.get_help())
        return Exit.MISUSE
    return Exit.COMPLETED


@dead_letters.command("list")
def list_(
    door: Door = None,
    code: Code = None,
    event_type: Type = None,
    orchestrator: Name = None,
    since: Since = None,
    settled: Annotated[bool, typer.Option("--settled", help="Those that somebody has settled.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Open and settled ones.")] = False,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> int:
    """List dead letters, the newest first: those that are open, unless more is asked for.

    \b
    Examples:
      orchestrator dead-letters list
      orchestrator dead-letters list --code event.unknown_type --since 2h
      orchestrator dead-letters list --all --door update --json
    """
    state = State.ALL if everything else State.SETTLED if settled else State.OPEN
    search = Search(
        state=state,
        door=door,
        code=code,
        event_type=event_type,
        orchestrator=orchestrator,
        since=moment(since),
        limit=limit,
    )
    output = Output(as_json)

    async def read(database: Database) -> tuple[Sequence[LetterView], int]:
        return await find_letters(database, search), await count_letters(database, search, at_most=_COUNTED)

    found, count = asyncio.run(with_database(Settings(), read))
    if as_json:
        output.document({"dead_letters": [document_of(one) for one in found], "count": count})
    elif not found:
        output.say("No such dead letters.")
    else:
        rows = [
            (str(one.id), one.code, one.door, named(TYPE, one), named(ID, one), ago(one.created_at), state_of(one))
            for one in found
        ]
        output.table(("number", "code", "door", "type", "event id", "age", "state"), rows)
        output.say()
        of = f"{_COUNTED} or more" if count == _COUNTED else f"{count}"
        output.say(f"{len(found)} of {of}. One of them: {command('dead-letters', 'show', str(found[0].id))}")
    return Exit.COMPLETED


@dead_letters.command("show")
def show(
    number: Number,
    full: Annotated[bool, typer.Option("--full", help="All of a long message.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="The message alone, byte for byte, for a file or a pipe.")] = False,
    as_json: AsJson = False,
) -> int:
    """Show a dead letter: what came, why it is none of ours, from where, and what became of it.

    The message may be personal. JSON is shown indented, other text escaped, anything else in hexadecimal.

    \b
    Examples:
      orchestrator dead-letters show 7
      orchestrator dead-letters show 7 --raw > message.json
      orchestrator dead-letters show 7 --json
    """
    settings, output = Settings(), Output(as_json)

    async def read(database: Database) -> tuple[LetterView | None, str]:
        return await letter_of(database, number), await namespace_of(database) or "default"

    found, namespace = asyncio.run(with_database(settings, read))
    letter = there(found, number)
    if raw:
        output.content(letter.raw)
        return Exit.COMPLETED
    link = None if letter.edited_from or "/" not in letter.workflow_id else link_of(settings, namespace, letter)
    if as_json:
        document = document_of(letter) | {"link": link, "raw_base64": base64.b64encode(letter.raw).decode()}
        message = parsed(letter.raw)
        output.document(document if message is None else document | {"message": message})
        return Exit.COMPLETED
    output.state(state_of(letter), f"{letter.code}: {letter.reason}")
    output.say(f"  came {ago(letter.created_at)} ago ({moment_json(letter.created_at)}) by {letter.door}")
    if letter.edited_from is not None:
        output.say(f"  an edited copy of dead letter {letter.edited_from}, which is as it came")
    else:
        output.say(f"  from {letter.workflow_id}, run {letter.run_id}, message {letter.position}")
    if link:
        output.say(f"  {link}")
    if letter.settled_at is not None:
        output.say(f"  settled {ago(letter.settled_at)} ago: {letter.settled_as}")
    have = "" if letter.is_whole else f", {letter.kept:,} of them are here"
    text, form = text_of(letter.raw)
    output.say(f"  {letter.size:,} bytes{have}, {form}:")
    cut = text if full else text[:_SHOWN]
    output.say(cut)
    if len(cut) < len(text):
        output.say(f"... all of it: {command('dead-letters', 'show', str(number), '--full')}")
    if letter.is_open:
        output.say(f"What a replay would do: {command('dead-letters', 'replay', str(number))}")
    return Exit.COMPLETED


@dead_letters.command("drop")
def drop(
    numbers: Annotated[list[int], typer.Argument(metavar="NUMBER...", help="As `list` shows them.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept and shown.")],
    by: By = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Settle dead letters that nobody will replay. They stay in the table, with who said so and why.

    \b
    Examples:
      orchestrator dead-letters drop 9 --reason "a test of ours"
      orchestrator dead-letters drop 9 10 --reason "sent again by hand, ticket 4711" --as olena --yes --json
    """
    if not any(one.isalnum() for one in reason):
        raise typer.BadParameter("--reason is kept for whoever asks later: write some words")
    settings, output, who = Settings(), Output(as_json), who_says(by)

    async def read(database: Database) -> list[LetterView]:
        return [there(await letter_of(database, number), number) for number in numbers]

    for letter in asyncio.run(with_database(settings, read)):
        how = f"settled already: {letter.settled_as}" if not letter.is_open else f"{letter.code}: {letter.reason}"
        output.say(f"Dead letter {letter.id}, {how}")
    ask("Drop it?" if len(numbers) == 1 else f"Drop these {len(numbers)}?", output, is_agreed=yes)

    async def settle(letters: DeadLetters) -> dict[int, Settled]:
        return {number: await letters.drop(number, by=who, reason=reason.strip()) for number in numbers}

    became = asyncio.run(with_letters(settings, settle, sends=False))
    for number, settled in became.items():
        match settled:
            case Settled.DONE:
                output.state("done", f"dead letter {number} is dropped")
            case Settled.BEFORE:
                output.say(f"Dead letter {number} had been settled before; nothing was changed.")
            case Settled.UNDER_WAY:
                output.say(f"Dead letter {number} is being replayed just now, and was left alone.")
    if as_json:
        told = [{"number": number, "became": settled.value} for number, settled in became.items()]
        output.document({"dead_letters": told})
    return Exit.COMPLETED if set(became.values()) == {Settled.DONE} else Exit.MISUSE


dead_letters.command("edit")(edit)
dead_letters.command("replay")(replay)
