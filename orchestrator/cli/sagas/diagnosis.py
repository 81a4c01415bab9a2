"""Where an event's sagas stand: what the database says of each, and what Temporal says of its execution.

The database decides what is true; Temporal is asked only about sagas that are not done, and only for the reason.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from orchestrator.cli.sagas.retry_reason import LAST_FAILURE, BlockedReason, Reason, reason_of, told_of_locks
from orchestrator.cli.terminal.exit_codes import Exit, NotPossible
from orchestrator.cli.terminal.invocation import command, worker_command
from orchestrator.cli.terminal.output import ago
from orchestrator.client import connect_temporal, ui_link
from orchestrator.client.task_queues import is_polled, other_queues
from orchestrator.definition.catalog import Catalog
from orchestrator.errors import DefinitionError, SagaUnknown, Unreachable
from orchestrator.protocol.commands import Phase, StepState
from orchestrator.protocol.envelope import valid_event_id
from orchestrator.protocol.names import is_partition, own_workflow_id
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.dead_letters.resolution import LetterView, letters_of_event
from orchestrator.store.queries.sagas import NoTables, SagaView, namespace_of, sagas_of_event

RECOVERY = "Recovery, which runs every 30 seconds,"
_PATIENCE = 5.0
"""Seconds that Temporal may take to answer; the database's answer is worth showing without it."""


@dataclass(frozen=True, slots=True)
class SagaDiagnosis:
    """Where one orchestrator stands with an event."""

    orchestrator: str
    event_id: str
    workflow_id: str
    """Of the execution that drives it; of its own if none runs."""
    link: str
    saga: SagaView | None
    """Its row; None if nothing was written yet."""
    reason: Reason | None
    """Why it is not done, as far as Temporal knows."""
    is_only: bool
    """No other orchestrator has this event."""

    @property
    def is_open(self) -> bool:
        """Whether it has no outcome yet, and may still get one."""
        return not self._was_rejected if self.saga is None else not self.saga.phase.is_final

    @property
    def is_driven(self) -> bool:
        """Whether an execution of it runs."""
        return self.reason is not None and self.reason.kind not in (BlockedReason.CLOSED, BlockedReason.GONE)

    @property
    def is_carried(self) -> bool:
        """Whether what drives it is a partition, with other sagas in it: that is left alone."""
        return self.is_driven and is_partition(self.workflow_id)

    @property
    def phase(self) -> str:
        """In a word."""
        if self.reason is not None and self.reason.kind is BlockedReason.PARKED:
            return "parked"
        if self.saga is None:
            return "rejected" if self._was_rejected else "accepted"
        if self.saga.is_stuck:
            return "stuck"
        return "waiting" if self.saga.is_waiting else self.saga.phase.value

    @property
    def exit(self) -> Exit:
        """What it comes to."""
        if self.saga is None:
            return Exit.FAILED if self._was_rejected else Exit.NOT_FINISHED
        if not self.saga.phase.is_final:
            return Exit.NOT_FINISHED
        return Exit.COMPLETED if self.saga.phase is Phase.COMPLETED else Exit.FAILED

    @property
    def why(self) -> str | None:
        """Why it is not done, in one sentence; None if it is."""
        if self.saga is not None and self.saga.phase.is_final:
            return None
        said: list[str] = []
        if self.saga is not None and self.saga.is_stuck:
            since = f" for {ago(self.saga.stuck_since)}" if self.saga.stuck_since else ""
            said.append(f"stuck at step {self.saga.stuck_step}{since}: {self.saga.stuck_error}")
        elif self.saga is None and not self._was_rejected:
            said.append("nothing is in the database yet")
        elif self.saga is not None and self.saga.blocked_by:
            said.append(told_of_locks(self.saga.blocked_by))
        if self.reason is not None and not (said and self.reason.kind in self._said_by_rows):
            because = self._because(self.reason)
            # Stuck says with what it fails already.
            said.append(because.partition(LAST_FAILURE)[0] if said else because)
        return "; ".join(said) or None

    @property
    def pending_cancel(self) -> str | None:
        """That a cancel was asked for and is not carried out yet, and why; None if there is no such cancel."""
        if self.reason is None or not self.is_open:
            return None
        is_asked = self.reason.is_cancel_requested and self.is_driven
        ends_as = self.saga.ends_as if self.saga is not None and self._is_undoing else None
        if ends_as is Phase.FAILED or not (is_asked or ends_as is Phase.CANCELLED):
            return None  # undone for another reason, its execution is cancelled only so that it does that
        if self.saga is not None and self.saga.pivot is not None:
            return f"a cancel was asked for, but step {self.saga.pivot} cannot be undone: the saga goes on to its end"
        match self.reason.kind:
            case BlockedReason.BUG:
                how = (
                    f"the execution cannot carry it out: its workflow task fails. {RECOVERY} has it begin again and "
                    f"undo, without that code. At once: {self.command('cancel')}"
                )
            case kind if kind.is_untaken:
                how = "no worker takes the work"
            case BlockedReason.RETRYING if self._is_undoing:
                how = "the undoing fails and is tried again"
            case _:
                how = "it is being carried out"
        return f"a cancel is pending; {how}"

    @property
    def hold_up(self) -> BlockedReason | None:
        """What holds it up, for programs; None if it is done, or nobody knows."""
        if not self.why:
            return None
        is_told = self.reason is None or self.reason.kind in self._said_by_rows
        if is_told and self.saga is not None and self.saga.is_waiting:
            return BlockedReason.LOCKED
        return None if self.reason is None else self.reason.kind

    @property
    def next_commands(self) -> Sequence[tuple[str, str]]:
        """What a person can do about it, each as a command to paste with what it does; nothing if nothing is needed."""
        saga = self.saga
        if saga is None or saga.phase.is_final:
            return ()
        if not saga.is_stuck:
            is_left = self.reason is not None and not self.is_driven
            left = [(self.command("retry"), "goes on where it stands")] if is_left else []
            return left + [
                (command("status", holder), "what the one that it waits for does")
                for holder in dict.fromkeys(one.holder.event_id for one in saga.blocked_by[:1])
            ]
        told = [(self.command("retry"), "tries again at once, when the cause is mended")]
        stuck = next((step for step in saga.steps if step.number == saga.stuck_step), None)
        goes_forward = saga.phase is Phase.FORWARD
        if stuck is not None and stuck.state is (StepState.ATTEMPTING if goes_forward else StepState.DONE):
            skip = self.command("skip", str(stuck.number), "--reason", "...")
            what = "goes on without it" if goes_forward else "leaves it as it is and undoes the rest"
            told.append((skip, what))
        if goes_forward and saga.pivot is None:
            told.append((self.command("cancel"), "undoes what was done"))
        return told

    def command(self, name: str, *arguments: str) -> str:
        """A command about this saga, to paste."""
        which = () if self.is_only else ("--orchestrator", self.orchestrator)
        return command(name, self.event_id, *arguments, *which)

    @property
    def _said_by_rows(self) -> tuple[BlockedReason, ...]:
        """What Temporal may tell that says no more than the rows."""
        waits = self.saga is not None and self.saga.is_waiting
        return (BlockedReason.WAITING, BlockedReason.WORKING) if waits else (BlockedReason.WAITING,)

    @property
    def _was_rejected(self) -> bool:
        return self.reason is not None and self.reason.status is WorkflowExecutionStatus.FAILED

    def _because(self, reason: Reason) -> str:
        match reason.kind:
            case BlockedReason.CLOSED if self.saga is None and self._was_rejected:
                return (
                    "what its execution was given was no event that it could take, and is kept as a dead letter; the "
                    "reason stands in the Web UI"
                )
            case BlockedReason.CLOSED if self.saga is None and reason.status is WorkflowExecutionStatus.COMPLETED:
                return (
                    "but its execution has completed: is this the workers' database? Set ORCHESTRATOR_DATABASE_URL "
                    "to theirs"
                )
            case BlockedReason.CLOSED | BlockedReason.GONE if self.saga is None:
                return f"{reason.sentence} before anything was done. Publish the event again with the same id"
            case BlockedReason.CLOSED | BlockedReason.GONE:
                return f"{reason.sentence} before the saga did, so nobody drives it"
            case BlockedReason.BUG if self.pending_cancel is None and not self._is_undoing:
                return f"{reason.sentence}. Nothing is undone; deploy a fix, and it goes on"
            case _:
                return reason.sentence

    @property
    def _is_undoing(self) -> bool:
        return self.saga is not None and self.saga.phase is Phase.UNDOING


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of an event."""

    standings: Sequence[SagaDiagnosis]
    remarks: Sequence[str]
    letters: Sequence[LetterView] = ()
    """Dead letters that name the event's id, the newest first."""

    def chosen(self, orchestrator: str | None) -> "SagaDiagnosis | None":
        """The one saga that a command is about: the named one, or the one that is open; None if all have ended.

        Raises:
            NotPossible: the named orchestrator has none, or several are open and none was named.
        """
        if not self.standings and self.letters:
            raise NotPossible("saga.unknown", f"no saga has that event: {told_of_letter(self.letters[0])}")
        have = ", ".join(one.orchestrator for one in self.standings)
        if orchestrator is not None:
            named = [one for one in self.standings if one.orchestrator == orchestrator]
            if not named:
                raise NotPossible(
                    "saga.unknown", f"{orchestrator} has no saga of that event, or none known here; {have} has"
                )
            return named[0] if named[0].is_open else None
        unfinished = [one for one in self.standings if one.is_open]
        if len(unfinished) > 1:
            names = ", ".join(one.orchestrator for one in unfinished)
            raise NotPossible(
                "saga.ambiguous", f"the event has several open sagas, of {names}: say which, with --orchestrator NAME"
            )
        return unfinished[0] if unfinished else None


async def find(settings: Settings, event_id: str, client: Client | None = None) -> Found:
    """Look for every saga of an event, and for dead letters that name its id.

    Args:
        settings: where to look.
        event_id: the event's.
        client: a connection, if there is one; without it Temporal is connected to where it is needed, and does not
            have to answer about sagas that the database knows.

    Raises:
        SagaUnknown: there is none.
        Unreachable: the database cannot be reached, or it knows none and Temporal cannot be asked.
    """
    database = Database(settings.resolved_database_url)
    sagas: Sequence[SagaView] = ()
    letters: Sequence[LetterView] = ()
    namespace, no_tables = None, None
    try:
        sagas = await sagas_of_event(database, event_id)
        namespace = await namespace_of(database)
        letters = await letters_of_event(database, event_id)
    except NoTables as fault:
        no_tables = fault  # an event may be accepted before the first worker comes
    finally:
        await database.close()
    remarks: list[str] = []
    rows = {one.orchestrator: one for one in sagas}
    listeners = _listeners(settings, sagas, remarks)
    names = sorted({*rows, *listeners})
    asked: dict[str, tuple[str, Reason]] = {}
    untaken: list[str] = []
    open_names = [name for name in names if name not in rows or not rows[name].phase.is_final]
    was_asked = bool(open_names) and valid_event_id(event_id)
    if was_asked:
        try:
            async with asyncio.timeout(_PATIENCE):
                client = client or await connect_temporal(settings)
                asked = await _ask_temporal(client, event_id, {name: rows.get(name) for name in open_names})
                if not (sagas or letters or any(asked.values())):
                    untaken = await _untaken(client, open_names, settings.task_queue)
        except (Unreachable, RPCError, TimeoutError) as fault:
            was_asked = False
            why = str(fault) or f"no answer within {_PATIENCE:g} s"
            if not sagas and not letters:
                known = no_tables or f"The database knows no event {event_id}."
                raise _instead(no_tables, f"{known} Temporal could not be asked either: {why}") from fault
            if any(not one.phase.is_final for one in sagas):
                remarks.append(f"Temporal could not be asked why it is not done: {why}")
    shown = [name for name in names if name in rows or name in asked]
    standings: list[SagaDiagnosis] = []
    for name in shown:
        saga = rows.get(name)
        gone = _gone(saga) if saga is not None and was_asked else None
        workflow_id, reason = asked.get(name, (own_workflow_id(name, event_id), gone))
        link = ui_link(settings, namespace or "default", workflow_id)
        standings.append(SagaDiagnosis(name, event_id, workflow_id, link, saga, reason, is_only=len(shown) == 1))
    if not standings and no_tables is not None:
        raise no_tables
    if not standings and not letters:
        raise SagaUnknown(
            f"No saga and no execution of an event {event_id} is known here. See which there are: {command('list')}"
            f"{_not_yet(settings)}{''.join(f'. {one}' for one in untaken)}"
        )
    return Found(standings, remarks, letters)


def told_of_letter(letter: LetterView) -> str:
    """That there is a dead letter, why, and what to type."""
    number = str(letter.id)
    if not letter.is_open:
        return f"dead letter {number} ({letter.code}) has it, {letter.settled_as}"
    see = command("dead-letters", "show", number)
    return f"dead letter {number} has it, {letter.code}: {letter.reason}. See it: {see}"


def _not_yet(settings: Settings) -> str:
    catalog = known_catalog(settings)
    names = [] if catalog is None else [one.__name__ for one in catalog.orchestrators.values() if one.partitions]
    if not names:
        return ""
    return f". What was just published for {', '.join(names)} is known once its partition has taken it"


async def _untaken(client: Client, orchestrators: Sequence[str], task_queue: str) -> list[str]:
    """Where the event may wait without a worker: on another task queue, or in a partition on this one."""
    remarks = [f"{one}" for one in await other_queues(client, orchestrators, task_queue)]
    if not await is_polled(client, task_queue):
        remarks.append(f"No worker polls the task queue {task_queue!r}. Start one: {worker_command()}")
    return remarks


def _instead(no_tables: NoTables | None, message: str) -> Unreachable:
    return Unreachable(message) if no_tables is None else NoTables(message)


def _gone(saga: SagaView) -> Reason | None:
    return None if saga.phase.is_final else Reason(BlockedReason.GONE, "its execution is gone")


def known_catalog(settings: Settings) -> Catalog | None:
    """The application's code, or None where it cannot be read just now: an operator acts on sagas all the same."""
    try:
        return Catalog.discover(settings.packages)
    except DefinitionError:
        return None


def _listeners(settings: Settings, sagas: Sequence[SagaView], remarks: list[str]) -> list[str]:
    """Who may have this event: its listeners, or everybody while its type is not known."""
    try:
        catalog = Catalog.discover(settings.packages)
    except DefinitionError as fault:
        if not sagas:
            raise
        # An operator asks about sagas also where the code is broken just now.
        remarks.append(f"The application's code could not be read, so only what the database has is shown: {fault}")
        return []
    if not sagas:
        return list(catalog.orchestrators)
    event = catalog.events.get(sagas[0].event_type)
    return [] if event is None else [one.__name__ for one in catalog.listeners(event)]


async def _ask_temporal(
    client: Client, event_id: str, sagas: Mapping[str, SagaView | None]
) -> dict[str, tuple[str, Reason]]:
    """For each orchestrator the execution that counts, with why it has not ended; nothing where there is none."""
    asked = await asyncio.gather(*(_execution_of(client, event_id, name, saga) for name, saga in sagas.items()))
    return {name: found for name, found in zip(sagas, asked, strict=True) if found is not None}


async def _execution_of(
    client: Client, event_id: str, orchestrator: str, saga: SagaView | None
) -> tuple[str, Reason] | None:
    """Its own execution, unless that does not run and another one that began it does: started by hand, for example."""
    own = own_workflow_id(orchestrator, event_id)
    reason = await reason_of(client, own)
    owner = None if saga is None else saga.owner_workflow_id
    if (reason is None or reason.kind is BlockedReason.CLOSED) and owner and owner != own:
        other = await reason_of(client, owner)
        if other is not None and (reason is None or other.kind is not BlockedReason.CLOSED):
            return owner, other
    return None if reason is None else (own, reason)
