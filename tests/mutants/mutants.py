"""The ways in which `make mutants` breaks the engine, and the test that must notice each of them.

A mutant replaces text that occurs exactly once in a file of the engine. The texts are short, so that a mutant still
fits when the code around it changes; `test_mutants` reports one that does not. Chaos must reveal every mutant that
concurrency can reveal (`make mutants-under-chaos`); the others say why it cannot.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

STEP_RETRIES = "orchestrator/worker/step_retries.py"
FENCE = "orchestrator/store/saga/fence.py"
EXTERNAL = "orchestrator/store/external/undo.py"
UNDO = "orchestrator/store/saga/undo.py"
FINISH = "orchestrator/store/saga/finish.py"
OPENING = "orchestrator/store/saga/opening.py"
OUTBOX = "orchestrator/store/outbox.py"
LOCKS = "orchestrator/store/locks.py"
ATOMIC = "orchestrator/store/saga/atomic.py"
REMOTE_UNDO = "orchestrator/store/remote/undo.py"
GROUP_COMMIT = "orchestrator/store/saga/group_commit.py"
WAVE = "orchestrator/worker/partition/wave.py"
HANDOVER = "orchestrator/worker/partition/handover.py"
RECOVERY = "orchestrator/worker/recovery/sweep.py"
READ_ONLY = "orchestrator/store/core/read_only.py"
POOLER = "orchestrator/store/connections/pooler.py"
SESSION_STATE = "orchestrator/store/core/session_state.py"
CONTAINMENT = "orchestrator/protocol/containment.py"
DRIVER = "orchestrator/drive/driver.py"
SIGNATURE = "orchestrator/values/signature.py"
PUBLISHABLE = "orchestrator/values/publishable.py"
UNWRAPPING = "orchestrator/protocol/messages/unwrapping.py"
STALLED_SAGAS = "orchestrator/worker/recovery/stalled_sagas.py"
IN_FLIGHT = "orchestrator/client/in_flight.py"
EXECUTION_STATUS = "orchestrator/worker/recovery/execution_status.py"
GROUPS = "orchestrator/protocol/exception_groups.py"
FAILURES = "orchestrator/workflow/failures.py"


class NoLongerFits(Exception):
    """The text that a mutant replaces does not occur exactly once in its file."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One way to break the engine."""

    name: str
    breaks: str
    """The promise that no longer holds, in one line."""
    file: str
    """The broken file, relative to the root of the project."""
    replaced: Mapping[str, str]
    """New text by the text that it replaces."""
    caught_by: tuple[str, ...]
    """The pytest node ids of the tests; without `[...]` any of a test's parameters counts."""
    unseen: str = ""
    """Why chaos cannot reveal it; if empty, chaos must reveal it."""

    def apply(self, root: Path) -> None:
        """Break the copy of the project at `root`.

        Raises:
            NoLongerFits: the code has changed, so nothing was written.
        """
        file = root / self.file
        file.write_text(self.applied_to(file.read_text()))

    def applied_to(self, code: str) -> str:
        """Return the file's code with the mutant applied.

        Raises:
            NoLongerFits: the code has changed.
        """
        for old, new in self.replaced.items():
            occurrences = code.count(old)
            if occurrences != 1:
                raise NoLongerFits(
                    f"the mutant no longer fits the code: {self.file} contains {occurrences} times the text that "
                    f"`{self.name}` replaces, but must contain it once: {old!r}. Correct it in tests/mutants/mutants.py"
                )
            code = code.replace(old, new)
        return code


MUTANTS = (
    Mutant(
        name="never-retry",
        breaks="an error that an operation declares as final is not retried",
        file=STEP_RETRIES,
        replaced={"isinstance(leaf, declared)": "leaf in declared"},
        caught_by=("tests/unit/test_retry.py::test_what_follows_a_failed_attempt[never]",),
        unseen="no operation under chaos declares such an error",
    ),
    Mutant(
        name="guard",
        breaks="no step runs forward once the undo has been decided",
        file=FENCE,
        replaced={"guard.c.phase == Phase.FORWARD.value": "guard.c.phase.is_not(None)"},
        caught_by=(
            "tests/store/test_fence.py"
            "::test_a_late_step_of_an_undone_saga_does_not_run_even_if_its_driver_opened_the_saga",
        ),
    ),
    Mutant(
        name="share-lock",
        breaks="the decision to undo waits for open steps (a key-share lock would not delay it)",
        file=FENCE,
        replaced={"with_for_update(read=True)": "with_for_update(read=True, key_share=True)"},
        caught_by=(
            "tests/store/test_fence.py::test_an_undo_waits_for_an_open_step_and_then_undoes_it[postgresql]",
            "tests/store/test_fence.py::test_an_undo_sees_a_pivot_that_commits_while_it_waits[postgresql]",
        ),
        unseen="the finish waits for open steps and undoes a missed one; only a pivot open just then reveals it",
    ),
    Mutant(
        name="fence",
        breaks="a step has its effect once, however often it is attempted",
        file=FENCE,
        replaced={"if row.attempt_token == token:": "if row.attempt_token is not None:"},
        caught_by=("tests/store/test_fence.py::test_a_repeated_step_returns_its_recorded_result",),
    ),
    Mutant(
        name="together-guard",
        breaks="no step in a group runs forward once the undo has been decided",
        file=GROUP_COMMIT,
        replaced={"WHERE guard.phase = '{Phase.FORWARD.value}' \"": "WHERE guard.phase > '' \""},
        caught_by=("tests/store/test_group_commit.py::test_no_step_of_a_group_is_done_if_one_may_not_run",),
    ),
    Mutant(
        name="together-share-lock",
        breaks="the decision to undo waits for open steps in a group",
        file=GROUP_COMMIT,
        replaced={"({_GUARD}) AS guard": "({str(_GUARD).replace('SHARE', 'KEY SHARE')}) AS guard"},
        caught_by=("tests/store/test_group_commit.py::test_an_undo_waits_for_steps_that_are_recorded_in_a_group",),
        unseen="they are recorded right before the commit, and the finish finds a step that the undo missed",
    ),
    Mutant(
        name="together-fence",
        breaks="a step that another driver did is not done again in a group",
        file=GROUP_COMMIT,
        replaced={"if written.rowcount != len(commands):": "if written.rowcount < 0:"},
        caught_by=("tests/store/test_group_commit.py::test_no_step_of_a_group_is_done_if_one_may_not_run",),
    ),
    Mutant(
        name="together-token",
        breaks="steps in a group are recorded in the transaction in which they ran",
        file=GROUP_COMMIT,
        replaced={"AND current_setting('orchestrator.group_commit', true) = :token": "AND :token > ''"},
        caught_by=("tests/store/test_group_commit.py::test_no_effect_of_a_group_remains_if_one_step_fails",),
        unseen="no operation of chaos swallows an error of its database",
    ),
    Mutant(
        name="recorded-refusal",
        breaks="a refusal is final even if the operation would now succeed",
        file=FENCE,
        replaced={
            "return await database.in_transaction(record_it)": "return refused_reply("
            "command.number, step.operation.name, refusal_record(refused))"
        },
        caught_by=("tests/store/test_fence.py::test_a_recorded_refusal_stays_even_if_the_operation_would_now_succeed",),
        unseen="an operation that chaos refuses is refused on every attempt",
    ),
    Mutant(
        name="undo-order",
        breaks="the last step is undone first",
        file=UNDO,
        replaced={"in reversed(to_undo)": "in to_undo"},
        caught_by=("tests/store/test_two_drivers.py::test_two_undoing_drivers_undo_each_step_once",),
        unseen="its compensations add and subtract, which gives the same result in any order",
    ),
    Mutant(
        name="barring",
        breaks="an external step whose attempts left no record is barred before it counts as undone",
        file=EXTERNAL,
        replaced={
            "row, StepState.BARRED, phases": "row, StepState.UNDONE, phases",
        },
        caught_by=("tests/store/test_late_external.py::test_an_external_call_that_returns_after_its_undo_is_undone",),
        unseen="it has no external steps",
    ),
    Mutant(
        name="phase",
        breaks="the first decision about a saga's end is final (compare-and-set of the phase)",
        file=FINISH,
        replaced={"if row.phase is not Phase.FORWARD:": "if row.phase.is_final:"},
        caught_by=(
            "tests/store/test_late_drivers.py::test_a_finish_after_the_decision_to_undo_does_not_complete_the_saga",
        ),
        unseen="a finish would have to happen within the few milliseconds of another driver's undo",
    ),
    Mutant(
        name="steps-read-too-early",
        breaks="the undo includes steps that commit while it waits: it reads them after the statement that locks",
        file=UNDO,
        replaced={
            "steps = await steps_of(connection, key)": "",
            "row = await lock_saga(connection, command.opening, catalog)": "steps = await steps_of(connection, key); "
            "row = await lock_saga(connection, command.opening, catalog)",
        },
        caught_by=("tests/store/test_fence.py::test_an_undo_sees_a_pivot_that_commits_while_it_waits[postgresql]",),
        unseen="the finish finds a missed step and undoes it, and no pivot of chaos takes long enough",
    ),
    Mutant(
        name="let-go",
        breaks="a partition drops a message only when its saga is recorded",
        file=WAVE,
        replaced={"return item.postponed(PostponeReason.BLOCKED)": "return None"},
        caught_by=("tests/worker/test_wave.py::test_a_saga_that_waits_for_a_lock_stays_in_its_partition",),
        unseen="whatever releases the lock names the saga, and the partition takes it over like an unknown one",
    ),
    Mutant(
        name="own-not-ensured",
        breaks="a saga is reported as handed over only when it has its own execution",
        file=HANDOVER,
        replaced={"return need.item.postponed(PostponeReason.LOST)": "return None"},
        caught_by=(
            "tests/worker/test_wave.py::test_a_saga_whose_own_execution_cannot_be_started_stays_in_its_partition",
        ),
        unseen="Temporal is available again before the client stops retrying",
    ),
    Mutant(
        name="ticket-kept",
        breaks="a lock is released in the transaction of the outcome",
        file=FINISH,
        replaced={"if rows[ending.saga].lock_keys]": "if not rows[ending.saga].lock_keys]"},
        caught_by=("tests/store/test_locks.py::test_a_blocked_step_does_not_run_until_its_saga_holds_the_key",),
    ),
    Mutant(
        name="drawn-apart",
        breaks="all tickets of a saga are drawn in one transaction, so that sagas cannot deadlock",
        file=LOCKS,
        replaced={
            """heads = await connection.execute("""
            """_of(connection, "heads"), {"keys": json.dumps(sorted(wanted.elements()))})""": """heads = []
    for lock in wanted:
        async with connection.engine.begin() as another:
            keys = json.dumps([lock] * wanted[lock])
            heads += (await another.execute(_of(connection, "heads"), {"keys": keys})).all()
        async with connection.engine.connect() as another:  # between two of them another opening gets ahead
            await another.execute(text("SELECT pg_sleep(random() * 0.02)"))"""
        },
        caught_by=(
            "tests/store/test_locks.py::test_two_concurrent_openings_queue_in_the_same_order_for_every_key[postgresql]",
        ),
    ),
    Mutant(
        name="group",
        breaks="sagas that finish in one group all finish",
        file=FINISH,
        replaced={"await _write(connection, endings)": "await _write(connection, endings[:1])"},
        caught_by=("tests/worker/test_wave.py::test_sagas_that_end_together_each_have_their_outcome",),
    ),
    Mutant(
        name="other-barring",
        breaks="a step in another database is barred there before it counts as undone",
        file=REMOTE_UNDO,
        replaced={
            "remote_row, _ = await insert_first(connection, NewStep.copy_of(row), StepState.BARRED)": """
        remote_row, new = await insert_first(connection, NewStep.copy_of(row), StepState.BARRED)
        if new:
            step = saga_step.c.saga_id == command.saga.id, saga_step.c.number == command.number
            await connection.execute(saga_step.delete().where(*step))"""
        },
        caught_by=(
            "tests/store/test_remote_steps.py::test_an_attempt_after_the_undo_changes_nothing_in_another_database",
        ),
        unseen="a journal step would have to be attempted for the first time after its undo; six runs had none",
    ),
    Mutant(
        name="atomic-undo",
        breaks="an atomic step is undone completely",
        file=ATOMIC,
        replaced={"in reversed(list(enumerate(done, start=1))):": "in reversed(list(enumerate(done, start=1))[:-1]):"},
        caught_by=("tests/store/test_atomic.py::test_an_atomic_step_is_undone_in_reverse_order_in_one_transaction",),
    ),
    Mutant(
        name="outbox",
        breaks="the outcome and its event are written together or not at all",
        file=FINISH,
        replaced={
            "await connection.execute(ALREADY_SENT,": (
                "async with connection.engine.begin() as another: await another.execute(ALREADY_SENT,"
            ),
        },
        caught_by=(
            "tests/store/test_fence.py::test_a_finish_that_does_not_commit_leaves_no_event_in_the_outbox[postgresql]",
        ),
        unseen="a crash would have to happen between two commits that are a millisecond apart",
    ),
    Mutant(
        name="read-only",
        breaks="a query changes nothing, not even through a function that it calls",
        file=READ_ONLY,
        replaced={"; SET LOCAL transaction_read_only = on": ""},
        caught_by=(
            "tests/store/test_query_read_only.py"
            "::test_a_query_cannot_write_whatever_its_statement_looks_like[postgresql-a function]",
        ),
        unseen="none of its queries writes",
    ),
    Mutant(
        name="pooled-timeouts",
        breaks="each transaction through a pooler has the engine's timeouts",
        file=POOLER,
        replaced={"query += self.transaction_settings": "pass"},
        caught_by=(
            "tests/store/test_pooler.py::test_each_transaction_has_the_timeouts_and_leaves_none_to_another_client",
        ),
        unseen="it has no pooler",
    ),
    Mutant(
        name="pooled-statements",
        breaks="no prepared statement remains on a connection that a pooler gives to another client",
        file=POOLER,
        replaced={
            'return await driver.prepare(query, name="", **options)': (
                "return await driver.prepare(query, name=str(__import__('uuid').uuid4()), **options)"
            ),
        },
        caught_by=("tests/store/test_pooler.py::test_no_prepared_statement_stays_on_a_server_connection",),
        unseen="it has no pooler",
    ),
    Mutant(
        name="repeat",
        breaks="a different event with a used id is rejected and not treated as a repeat",
        file=OPENING,
        replaced={"reused = not by_id[key].is_recorded_in(row, catalog)": "reused = False"},
        caught_by=(
            "tests/store/test_fence.py::test_an_event_id_reused_for_different_content_is_refused_and_changes_nothing",
        ),
        unseen="none of its clients uses an id for two contents",
    ),
    Mutant(
        name="key-order",
        breaks="an event is sent only when the earlier events of its key are marked as sent",
        file=OUTBOX,
        replaced={"ordering_key.is_(None), is_first)": "ordering_key.is_(None), is_first | True)"},
        caught_by=(
            "tests/store/test_two_relays.py"
            "::test_one_relay_is_stopped_while_the_other_sends[postgresql-after claim-continues in time]",
        ),
        unseen="none of its outcomes starts another saga",
    ),
    Mutant(
        name="forward",
        breaks="an event reaches all its listeners even if its publisher dies after the first",
        file=OPENING,
        replaced={"if catalog.shared:": "if not catalog:"},
        caught_by=(
            "tests/store/test_two_relays.py::test_an_event_that_started_a_saga_is_delivered_to_its_other_listeners",
        ),
        unseen="each of its events has one listener",
    ),
    Mutant(
        name="future-mark",
        breaks="an execution that was cut off is found even if a worker whose clock was ahead moved the mark past it",
        file=RECOVERY,
        replaced={"latest is None or before > latest else": "latest is None else"},
        caught_by=(
            "tests/temporal/test_wrong_clocks.py::test_a_mark_in_the_future_hides_no_execution_that_was_cut_off",
        ),
        unseen="its workers take the mark from Temporal's clock, so none of them sets one in the future",
    ),
    Mutant(
        name="contained",
        breaks="an exception in an operation that would end the worker is a failed attempt",
        file=CONTAINMENT,
        replaced={"raise interrupted(self._what, raised) from raised": "return"},
        caught_by=(
            "tests/store/test_code_interrupted.py::test_a_base_exception_in_locks_is_reported_as_interrupted_code[CancelledError]",
        ),
        unseen="no operation of chaos raises it",
    ),
    Mutant(
        name="own-cancel",
        breaks="a step that handle itself cancels is an author's mistake and not a person's cancel",
        file=DRIVER,
        replaced={"if not self._is_stopped():": "if False:"},
        caught_by=("tests/unit/test_cancels_in_handle.py::test_a_step_that_handle_cancels_is_its_authors_mistake",),
        unseen="no handle of chaos cancels its steps",
    ),
    Mutant(
        name="future-progress",
        breaks="a stalled saga is found even if a worker whose clock was ahead recorded its last progress",
        file="orchestrator/store/recovery.py",
        replaced={"saga.c.progressed_at > clock.now_plus(clock.AHEAD)": "saga.c.progressed_at <= before"},
        caught_by=("tests/store/test_clock.py::test_a_saga_whose_progress_lies_in_the_future_is_overdue",),
        unseen="its workers write the database's time, so none of them writes one in the future",
    ),
    Mutant(
        name="workers-clock",
        breaks="a saga's progress is recorded by the database's clock, so no worker's clock can hide it from recovery",
        file="orchestrator/store/core/clock.py",
        replaced={
            "def now() -> ColumnElement[datetime]:": """def now() -> ColumnElement[datetime]:
    from sqlalchemy import bindparam

    return bindparam(None, callable_=datetime.now, type_=UtcTime(), unique=True)


def database_now() -> ColumnElement[datetime]:"""
        },
        caught_by=("tests/store/test_clock.py::test_every_time_in_the_tables_comes_from_the_databases_clock",),
        unseen="a saga whose driver dies is hidden for an hour only if that driver was ahead, and few are",
    ),
    Mutant(
        name="round-trip",
        breaks="a recorded value is read back unchanged, with its type, or is rejected before its step commits",
        file=SIGNATURE,
        replaced={"if how := difference(checked, back):": "if not back and (how := difference(checked, back)):"},
        caught_by=(
            "tests/unit/test_overlap.py"
            "::test_a_value_that_would_be_read_back_differently_is_neither_described_nor_recorded",
        ),
        unseen="no value of its bank could be read back as a different one",
    ),
    Mutant(
        name="publishable",
        breaks="an event arrives unchanged or is rejected before it is sent",
        file=PUBLISHABLE,
        replaced={"(how := difference(event, again))": "(how := difference(again, again))"},
        caught_by=(
            "tests/unit/test_publishable.py::test_an_event_that_would_arrive_changed_is_refused_before_it_is_sent",
        ),
        unseen="no event of its bank could be read as a different one",
    ),
    Mutant(
        name="session-kept",
        breaks="no step gets a session that an operation of another saga has changed",
        file=SESSION_STATE,
        replaced={"return _LEAVES_STATE in connection.info": "return False"},
        caught_by=(
            "tests/store/test_session_state.py::test_session_state_of_a_step_diverts_no_other_step[postgresql]",
            "tests/store/test_session_state.py::test_a_session_level_advisory_lock_ends_with_its_step[postgresql]",
        ),
        unseen="the operations of chaos change nothing in their session",
    ),
    Mutant(
        name="redirected-record",
        breaks="a step's record is written with the engine's schema and role, even if its operation sets others",
        file=SESSION_STATE,
        replaced={"not driven.info.pop(_REDIRECTED, False)": "True"},
        caught_by=(
            "tests/store/test_session_state.py::test_session_state_of_a_step_diverts_no_other_step[postgresql]",
        ),
        unseen="the operations of chaos set no schema and no role",
    ),
    Mutant(
        name="rounded-numbers",
        breaks="a number arrives with all its digits, or must be sent as a string",
        file=UNWRAPPING,
        replaced={"if envelope.has_rounded_numbers and is_exact:": "if not envelope:"},
        caught_by=(
            "tests/unit/test_publishable.py::test_a_number_with_more_digits_than_a_float_must_be_sent_as_a_string",
        ),
        unseen="its amounts are whole numbers",
    ),
    Mutant(
        name="unheard-cancel",
        breaks="a cancel is carried out even if the execution fails at each replay and never processes it",
        file=STALLED_SAGAS,
        replaced={"if driver.keeps_failing else None": "if driver.was_terminated else None"},
        caught_by=(
            "tests/temporal/test_decisions_on_changed_code.py"
            "::test_a_cancel_in_the_database_is_carried_out_by_an_execution_that_starts_again",
        ),
        unseen="no code of chaos changes while its sagas are in progress",
    ),
    Mutant(
        name="endless-requests",
        breaks="requests in flight are limited, so that no request's deadline runs while it queues",
        file=IN_FLIGHT,
        replaced={"asyncio.Semaphore(REQUESTS)": "asyncio.Semaphore(REQUESTS * 1000)"},
        caught_by=("tests/unit/test_requests_in_flight.py::test_three_thousand_gathered_publishes_are_all_accepted",),
        unseen="its clients publish fewer events at once than a server can accept",
    ),
    Mutant(
        name="undoing-move",
        breaks="an execution that is moved to another task queue does not count as terminated by a person",
        file=EXECUTION_STATUS,
        replaced={" or termination.reason.startswith(MOVED)": ""},
        caught_by=("tests/temporal/test_renamed_task_queue.py::test_sagas_in_progress_are_moved_and_not_undone",),
        unseen="chaos renames no task queue",
    ),
    Mutant(
        name="grouped-refusal",
        breaks="a refusal inside an exception group is treated as a refusal",
        file=GROUPS,
        replaced={"refusal or _first": "_first"},
        caught_by=(
            "tests/unit/test_driven_saga.py::test_a_refusal_inside_an_exception_group_of_handle_counts_as_a_refusal",
        ),
        unseen="none of its operations raises a group",
    ),
    Mutant(
        name="unbounded-failure",
        breaks="the server keeps the cause of a step that is retried",
        file=FAILURES,
        replaced={"_MESSAGE, _CAUSE_MESSAGE, _TYPE = 2_400": "_MESSAGE, _CAUSE_MESSAGE, _TYPE = 24_000"},
        caught_by=("tests/unit/test_failures.py::test_a_failed_attempt_is_small_enough_for_the_server_to_keep",),
        unseen="it checks effects, not error messages",
    ),
    Mutant(
        name="invalid-result",
        breaks="a result of the wrong type fails its step at once",
        file="orchestrator/errors.py",
        replaced={"class ResultInvalid(AuthorsMistake)": "class ResultInvalid(OrchestratorError)"},
        caught_by=(
            "tests/store/test_authors_errors.py::test_a_result_of_the_wrong_type_is_a_mistake_that_names_both_types",
        ),
        unseen="its operations return what they declare",
    ),
    Mutant(
        name="outage-log",
        breaks="a database outage is logged at its start and end, and not for each attempt",
        file="orchestrator/worker/fault_log.py",
        replaced={"if not is_outage(fault):\n            _log_failure": "if True:\n            _log_failure"},
        caught_by=(
            "tests/worker/test_fault_log.py"
            "::test_an_outage_of_writes_is_logged_when_it_begins_and_when_it_ends[sqlite-make_read_only]",
        ),
        unseen="it checks effects, not log lines",
    ),
    Mutant(
        name="external-doubt",
        breaks="a refusal together with another error leaves an external call in doubt",
        file=GROUPS,
        replaced={"if is_external and not all(": "if False and not all("},
        caught_by=(
            "tests/store/test_authors_errors.py"
            "::test_an_external_refusal_beside_another_error_leaves_the_result_unknown",
        ),
        unseen="its external calls have no tasks",
    ),
    Mutant(
        name="kept-read-only",
        breaks="no connection is kept to a server that refuses writes",
        file="orchestrator/store/connections/settings.py",
        replaced={"context.is_disconnect = True": "pass"},
        caught_by=(
            "tests/store/test_lost_connections.py"
            "::test_a_connection_opened_while_the_server_was_read_only_is_discarded[postgresql]",
        ),
        unseen="its servers refuse no writes",
    ),
)
