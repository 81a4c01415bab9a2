"""Diagnoses an event's sagas from the database's rows and from Temporal's executions.

If the two differ, the database is right. Temporal is asked only about sagas that are not done, and only for the reason.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from temporalio.client import Client
from temporalio.service import RPCError

from orchestrator.cli.diagnosis.blocked_reason import BlockedReason, Reason, reason_of
from orchestrator.cli.diagnosis.saga import SagaDiagnosis
from orchestrator.cli.terminal.exit_codes import NotPossible
from orchestrator.cli.terminal.invocation import command, worker_command
from orchestrator.client import connect_temporal, ui_link
from orchestrator.client.executions.task_queues import is_polled, other_queues
from orchestrator.definition.catalog import Catalog
from orchestrator.errors import DefinitionError, SagaUnknown, Unreachable
from orchestrator.protocol.messages.envelope import valid_event_id
from orchestrator.protocol.names import own_workflow_id
from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.store.dead_letters.resolution import StoredDeadLetter, dead_letters_of_event
from orchestrator.store.queries.sagas import NoTables, SagaView, namespace_of, sagas_of_event

_TEMPORAL_TIMEOUT = 5.0
"""How many seconds Temporal may take to answer. Without its answer, the database's answer is still shown."""


@dataclass(frozen=True, slots=True)
class EventDiagnosis:
    """What is known about an event: its sagas, and the dead letters with its id."""

    sagas: Sequence[SagaDiagnosis]
    remarks: Sequence[str]
    dead_letters: Sequence[StoredDeadLetter] = ()
    """The dead letters with the event's id, the newest first."""

    def select(self, orchestrator: str | None) -> SagaDiagnosis | None:
        """Return the open saga of the given orchestrator or, without one, the only open saga; None if it has ended.

        Raises:
            NotPossible: the given orchestrator has no saga, or several sagas are open and no orchestrator was given.
        """
        if not self.sagas and self.dead_letters:
            raise NotPossible(
                "saga.unknown", f"no saga was started for that event: {describe_dead_letter(self.dead_letters[0])}"
            )
        if orchestrator is not None:
            named = next((diagnosis for diagnosis in self.sagas if diagnosis.orchestrator == orchestrator), None)
            if named is None:
                known = ", ".join(diagnosis.orchestrator for diagnosis in self.sagas)
                raise NotPossible(
                    "saga.unknown",
                    f"{orchestrator} has no saga for that event, or none that is known here. These orchestrators have "
                    f"one: {known}",
                )
            return named if named.is_open else None
        unfinished = [diagnosis for diagnosis in self.sagas if diagnosis.is_open]
        if len(unfinished) > 1:
            names = ", ".join(diagnosis.orchestrator for diagnosis in unfinished)
            raise NotPossible(
                "saga.ambiguous",
                f"the event has several open sagas, of {names}. Choose one with --orchestrator NAME",
            )
        return unfinished[0] if unfinished else None


@dataclass(frozen=True, slots=True)
class _Rows:
    """What the database contains about an event."""

    sagas: Sequence[SagaView] = ()
    dead_letters: Sequence[StoredDeadLetter] = ()
    namespace: str | None = None
    """The Temporal namespace that the database belongs to."""
    no_tables: NoTables | None = None
    """Set if no worker has created the tables yet. An event may have been accepted nevertheless."""


async def diagnose(settings: Settings, event_id: str, client: Client | None = None) -> EventDiagnosis:
    """Find every saga of an event, and the dead letters with its id.

    Args:
        settings: the settings, with the addresses of the database and of Temporal.
        event_id: the event's id.
        client: a connection to Temporal, if there is one. Otherwise a connection is opened when it is needed, and
            Temporal need not answer about sagas that are in the database.

    Raises:
        SagaUnknown: there is no saga and no dead letter for the event.
        Unreachable: the database cannot be reached, or it has no saga for the event and Temporal cannot be asked.
    """
    rows = await _read_rows(settings, event_id)
    remarks: list[str] = []
    saga_of = {saga.orchestrator: saga for saga in rows.sagas}
    names = sorted({*saga_of, *_possible_listeners(settings, rows.sagas, remarks)})
    open_sagas = {name: saga_of.get(name) for name in names if name not in saga_of or not saga_of[name].phase.is_final}
    executions: dict[str, tuple[str, Reason]] = {}
    unpolled: list[str] = []
    was_asked = bool(open_sagas) and valid_event_id(event_id)
    if was_asked:
        try:
            async with asyncio.timeout(_TEMPORAL_TIMEOUT):
                client = client or await connect_temporal(settings)
                executions = await _ask_temporal(client, event_id, open_sagas)
                if not (rows.sagas or rows.dead_letters or any(executions.values())):
                    unpolled = await _unpolled_queues(client, list(open_sagas), settings.task_queue)
        except (Unreachable, RPCError, TimeoutError) as fault:
            was_asked = False
            why = str(fault) or f"no answer within {_TEMPORAL_TIMEOUT:g} s"
            if not rows.sagas and not rows.dead_letters:
                raise _nothing_known(rows, event_id, why) from fault
            if any(not saga.phase.is_final for saga in rows.sagas):
                remarks.append(f"Temporal could not be asked why the saga is not done: {why}")
    shown = [name for name in names if name in saga_of or name in executions]
    diagnoses: list[SagaDiagnosis] = []
    for name in shown:
        saga = saga_of.get(name)
        no_execution = _no_execution(saga) if saga is not None and was_asked else None
        workflow_id, reason = executions.get(name, (own_workflow_id(name, event_id), no_execution))
        link = ui_link(settings, rows.namespace or "default", workflow_id)
        diagnoses.append(SagaDiagnosis(name, event_id, workflow_id, link, saga, reason, is_only=len(shown) == 1))
    if not diagnoses and rows.no_tables is not None:
        raise rows.no_tables
    if not diagnoses and not rows.dead_letters:
        raise SagaUnknown(
            f"No saga and no execution for the event {event_id} is known here. Check the id against the known sagas: "
            f"{command('list')}{_partition_note(settings)}{''.join(f'. {remark}' for remark in unpolled)}"
        )
    return EventDiagnosis(diagnoses, remarks, rows.dead_letters)


async def _read_rows(settings: Settings, event_id: str) -> _Rows:
    database = Database(settings.resolved_database_url)
    sagas: Sequence[SagaView] = ()
    namespace: str | None = None
    try:
        sagas = await sagas_of_event(database, event_id)
        namespace = await namespace_of(database)
        return _Rows(sagas, await dead_letters_of_event(database, event_id), namespace)
    except NoTables as fault:
        return _Rows(sagas, (), namespace, fault)
    finally:
        await database.close()


def describe_dead_letter(letter: StoredDeadLetter) -> str:
    """Describe the dead letter that contains an event: why it was stored, and which command shows it."""
    number = str(letter.id)
    if not letter.is_open:
        return f"its message is dead letter {number} ({letter.code}), {letter.settled_as}"
    see = command("dead-letters", "show", number)
    return f"its message is dead letter {number}, {letter.code}: {letter.reason}. See it: {see}"


def _partition_note(settings: Settings) -> str:
    """Explain that a new event may be unknown, because no execution shows it until its partition opens it."""
    catalog = known_catalog(settings)
    if catalog is None:
        return ""
    names = [name for name, orchestrator in catalog.orchestrators.items() if orchestrator.partitions]
    if not names:
        return ""
    return (
        f". If the event was published just now for {', '.join(names)}, it becomes known when its partition has picked "
        "it up"
    )


async def _unpolled_queues(client: Client, orchestrators: Sequence[str], task_queue: str) -> list[str]:
    """Describe where the event may wait without a worker: on another task queue, or in a partition on this one."""
    remarks = [str(queue) for queue in await other_queues(client, orchestrators, task_queue)]
    if not await is_polled(client, task_queue):
        remarks.append(f"No worker polls the task queue {task_queue!r}. Start one: {worker_command()}")
    return remarks


def _nothing_known(rows: _Rows, event_id: str, why: str) -> Unreachable:
    """Return the error for an event that is not in the database while Temporal cannot be asked."""
    temporal = f"Temporal could not be asked either: {why}"
    if rows.no_tables is not None:
        return NoTables(f"{rows.no_tables} {temporal}")
    return Unreachable(f"There is no event {event_id} in the database. {temporal}")


def _no_execution(saga: SagaView) -> Reason | None:
    return None if saga.phase.is_final else Reason(BlockedReason.GONE, "its execution is gone")


def known_catalog(settings: Settings) -> Catalog | None:
    """Return the application's catalog, or None if its code is broken. Operators act on sagas even then."""
    try:
        return Catalog.discover(settings.packages)
    except DefinitionError:
        return None


def _possible_listeners(settings: Settings, sagas: Sequence[SagaView], remarks: list[str]) -> list[str]:
    """Return the orchestrators that may have this event: its listeners, or all if its type is unknown."""
    try:
        catalog = Catalog.discover(settings.packages)
    except DefinitionError as fault:
        if not sagas:
            raise
        # Operators ask about sagas even while the deployed code is broken.
        remarks.append(f"Only what the database has is shown, because the application's code cannot be read: {fault}")
        return []
    if not sagas:
        return list(catalog.orchestrators)
    event = catalog.events.get(sagas[0].event_type)
    return [] if event is None else [listener.__name__ for listener in catalog.listeners(event)]


async def _ask_temporal(
    client: Client, event_id: str, sagas: Mapping[str, SagaView | None]
) -> dict[str, tuple[str, Reason]]:
    """Return each orchestrator's execution, and why it has not ended. Orchestrators without one are left out."""
    executions = await asyncio.gather(*(_execution_of(client, event_id, name, saga) for name, saga in sagas.items()))
    return {name: execution for name, execution in zip(sagas, executions, strict=True) if execution is not None}


async def _execution_of(
    client: Client, event_id: str, orchestrator: str, saga: SagaView | None
) -> tuple[str, Reason] | None:
    """Return the saga's own execution or, if only its owner runs, the owner, which may have been started manually."""
    own = own_workflow_id(orchestrator, event_id)
    reason = await reason_of(client, own)
    owner = None if saga is None else saga.owner_workflow_id
    if (reason is None or reason.kind is BlockedReason.CLOSED) and owner and owner != own:
        owner_reason = await reason_of(client, owner)
        if owner_reason is not None and (reason is None or owner_reason.kind is not BlockedReason.CLOSED):
            return owner, owner_reason
    return None if reason is None else (own, reason)
