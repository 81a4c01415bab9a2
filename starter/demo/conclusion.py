"""The end of the demo: tables of its sagas and balances, and the check of the application's invariants."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

from orchestrator.cli.embedded.script import GaveUp
from orchestrator.protocol.commands import Phase, StepState
from orchestrator.store.queries.sagas import SagaView, counts
from starter.demo.run import ACCOUNTS, PATIENCE, DemoRun, PublishedEvent, format_balance
from starter.invariants import violations


async def conclude(run: DemoRun) -> None:
    """Show the sagas and the balances, and check every invariant.

    Raises:
        GaveUp: an invariant is violated.
    """
    views = {event.event_id: await run.saga(event.event_id) for event in run.published}
    run.show.heading("Sagas")
    run.show.table(
        "event id",
        *(["orchestrator"] if run.show.is_wide else []),
        "what",
        "steps",
        "outcome",
        rows=_rows(run, views),
        right=("steps",),
        least=len("account.insufficient_funds"),
    )
    balances = await run.balances()
    run.show.heading("Balances")
    run.show.table(
        "account",
        "user",
        "before",
        "now",
        rows=[
            (
                name,
                account.user_id,
                format_balance(account, run.balances_before[name]),
                format_balance(account, balances[name]),
            )
            for name, account in ACCOUNTS.items()
        ],
        right=("before", "now"),
    )
    await _check(run, views)


async def _check(run: DemoRun, views: Mapping[str, SagaView]) -> None:
    unfinished = await _wait_until_quiet(run)
    async with run.database.reading() as connection:
        violated = await violations(connection)
    violated += [f"saga {event_id} is {view.phase}" for event_id, view in views.items() if not view.phase.is_final]
    if violated:
        sentences = "\n".join(f"  {sentence}" for sentence in violated)
        reason = f"\nThis may be why: {unfinished} sagas of earlier runs are not finished." if unfinished else ""
        raise GaveUp(f"Invariants are violated:\n{sentences}{reason}")
    run.show.plain()
    run.show.good("Invariants checked, all hold:")
    for sentence in (
        "every saga has exactly one outcome",
        "every balance is its opening balance plus the signed sum of its records",
        "every transfer subtracted and added the same amount, at its recorded rate; none was done twice",
        "every category's value is the sum of its records since its last reset, and every month adds up",
        "every account is open and counted",
    ):
        run.show.plain(f"           {sentence}")


async def _wait_until_quiet(run: DemoRun) -> int:
    """Wait for sagas that an interrupted run left unfinished. Returns the number of those that do not end in time."""

    async def unfinished() -> int:
        sagas = await counts(run.database)
        return sagas[Phase.FORWARD] + sagas[Phase.UNDOING]

    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while await unfinished():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    return await unfinished()


def _rows(run: DemoRun, views: Mapping[str, SagaView]) -> list[tuple[str, ...]]:
    """One row per saga, except that the crowd around the survivor shares one row."""
    crowd = [event for event in run.published if event.is_in_crowd and not _has_survived(run, event)]
    rows = [_row(run, event, views[event.event_id]) for event in run.published if event not in crowd]
    phases = Counter(views[event.event_id].phase for event in crowd)
    outcomes = ", ".join(f"{count} {phase}" for phase, count in phases.items())
    rows.append((f"{run.event_id('at-once')}-...", "MoneyTransfer", f"the other {len(crowd)} at once", "", outcomes))
    return [row if run.show.is_wide else (row[0], *row[2:]) for row in rows]


def _row(run: DemoRun, event: PublishedEvent, view: SagaView) -> tuple[str, ...]:
    undone = sum(step.state is StepState.UNDONE for step in view.steps)
    outcome = ", ".join(
        filter(
            None,
            (
                f"{view.phase}: {view.error_code}" if view.error_code else view.phase,
                f"{undone} undone" if undone else "",
                "survived kill -9" if _has_survived(run, event) else "",
            ),
        )
    )
    return event.event_id, view.orchestrator, event.description, str(len(view.steps)), outcome


def _has_survived(run: DemoRun, event: PublishedEvent) -> bool:
    return run.links["survived"].event_id == event.event_id
