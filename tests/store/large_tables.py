"""Fills the engine's tables with the rows of a busy system, in a few statements."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.protocol.commands import Outcome, Phase
from orchestrator.store.core.database import Database

_NUMBERS = {
    "postgresql": "generate_series(1, {most}) AS numbers(n)",
    "sqlite": "(WITH RECURSIVE counting(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counting WHERE n < {most}) "
    "SELECT n FROM counting) AS numbers",
}
_AGO = {
    "postgresql": "clock_timestamp() - ({seconds}) * interval '1 second'",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('%+d seconds', -({seconds})))",
}
_ID = {
    "postgresql": "CAST(lpad(to_hex({n}), 32, '0') AS uuid)",
    "sqlite": "printf('%032x', {n})",
}
_BYTES = {"postgresql": "convert_to({text}, 'UTF8')", "sqlite": "CAST({text} AS BLOB)"}

_OUTCOME = Outcome(
    phase=Phase.COMPLETED, event_id="EVENT-ID/outcome", content_digest="0" * 64, triggering={}, event={}
).model_dump_json()

FAILED, STUCK, FORWARD, SLEEPING = 211, 20, 100, 200
"""One saga in `FAILED` has failed. Of the newest sagas, the others count those that are stuck, stalled or sleeping."""
LOCKED = 50
"""How many sagas wait for a lock."""


async def fill(database: Database, sagas: int) -> None:
    """Fill a database with sagas, nearly all of them completed and, except for the newest, purged.

    Args:
        database: a migrated, empty database.
        sagas: number of sagas, each with two steps and an event in the outbox, and number of dead letters.
    """
    async with database.transaction() as connection:
        if database.dialect == "postgresql":
            await connection.execute(text("SET LOCAL statement_timeout = 0"))
        for statement in _statements(database.dialect, sagas):
            await connection.exec_driver_sql(statement)
    async with database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await _analyze(connection)


async def _analyze(connection: AsyncConnection) -> None:
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SET statement_timeout = 0"))
        await connection.execute(text("VACUUM ANALYZE"))
        await connection.execute(text("RESET statement_timeout"))
    else:
        await connection.execute(text("ANALYZE"))


def _statements(dialect: str, sagas: int) -> list[str]:
    numbers = _NUMBERS[dialect].format(most=sagas)
    ended = sagas - STUCK - FORWARD - SLEEPING - LOCKED

    def ago(seconds: str) -> str:
        return _AGO[dialect].format(seconds=seconds)

    def key(n: str) -> str:
        return _ID[dialect].format(n=n)

    def raw(written: str) -> str:
        return _BYTES[dialect].format(text=written)

    false = "false" if dialect == "postgresql" else "0"
    is_final = f"n <= {ended}"
    age = f"{sagas} - n + 3600"
    silent = ago("7200")
    envelope = """'{"specversion":"1.0","id":"event-' || n || '","type":"COINS_MOVE_REQUESTED","data":{}}'"""
    letter = """'{"id": "letter-' || n || '", "type": "UNHEARD", "data": {}}'"""
    return [
        f"""INSERT INTO saga (id, orchestrator, event_id, envelope, event_type, event_version, content_digest, phase,
            outcome, owner_workflow_id, drives, progressed_at, next_at, lock_keys, stuck_step, stuck_error, stuck_since,
            created_at, finished_at, purged_at)
            SELECT {key("n")}, CASE WHEN n % 10 = 0 THEN 'Letter' ELSE 'CoinsMove' END, 'event-' || n, {envelope},
            'COINS_MOVE_REQUESTED', 1, '{"0" * 64}',
            CASE WHEN NOT {is_final} THEN 'forward' WHEN n % {FAILED} = 0 THEN 'failed' ELSE 'completed' END,
            CASE WHEN {is_final} THEN replace('{_OUTCOME}', 'EVENT-ID', 'event-' || n) END,
            'CoinsMove/event/event-' || n, 1,
            CASE WHEN {is_final} THEN {ago(age)} ELSE {silent} END,
            CASE WHEN n > {ended + STUCK + FORWARD} AND n <= {sagas - LOCKED} THEN {ago("-3600")} END,
            CASE WHEN n > {sagas - LOCKED} THEN '["k"]' END,
            CASE WHEN n > {ended} AND n <= {ended + STUCK} THEN 1 END,
            CASE WHEN n > {ended} AND n <= {ended + STUCK} THEN 'broken' END,
            CASE WHEN n > {ended} AND n <= {ended + STUCK} THEN {silent} END,
            {ago(age)}, CASE WHEN {is_final} THEN {ago(age)} END,
            CASE WHEN n <= {ended - 500} THEN {ago("60")} END
            FROM {numbers}""",
        f"""INSERT INTO saga_step (saga_id, number, kind, operation, database, arguments, digest, irreversible,
            attempt_token, state, attempts, undo_attempts, created_at, attempted_at, done_at)
            SELECT {key("n")}, steps.number, CASE WHEN n % 7 = 0 THEN 'external' ELSE 'operation' END, 'cast.take',
            'home', '{{}}', '{"0" * 64}', {false}, {key("n")}, 'done', 1, 0, {ago(age)},
            CASE WHEN n = {sagas} THEN {ago("1")} END, {ago(age)}
            FROM {numbers} CROSS JOIN (SELECT 1 AS number UNION ALL SELECT 2) AS steps""",
        f"""INSERT INTO saga_outbox (event_id, saga_id, target, ordering_key, envelope, created_at, sent_at, attempts)
            SELECT 'sent-' || n, {key("n")}, 'listeners', CASE WHEN n % 2 = 0 THEN 'key-' || (n % 100) END, {envelope},
            {ago(age)}, CASE WHEN n <= {sagas - 200} THEN {ago(age)} END, 0 FROM {numbers}""",
        f"""INSERT INTO saga_dead_letter (source, origin_workflow_id, origin_run_id, origin_position, raw, size, code,
            reason, created_at, settled_at, settled_as, event_id)
            SELECT CASE WHEN n = 1 THEN 'edited' ELSE 'event' END, 'CoinsMove/event/' || n, 'run', 1, {raw(letter)},
            {"octet_length" if dialect == "postgresql" else "length"}({letter}),
            CASE WHEN n = 2 THEN 'event.not_json' ELSE 'event.unknown_type' END, 'nobody knows it', {ago(age)},
            CASE WHEN n > 100 THEN {ago(age)} END, CASE WHEN n > 100 THEN 'dropped' END,
            CASE WHEN n > 300 THEN 'letter-' || n END FROM {numbers}""",
        f"""INSERT INTO saga_lock (key, ticket, saga_id, next_ticket, created_at)
            SELECT 'head-' || n, 0, NULL, 2, {ago("60")} FROM {numbers}""",
        f"""INSERT INTO saga_lock (key, ticket, saga_id, next_ticket, created_at)
            SELECT 'k', n - {sagas - LOCKED}, {key("n")}, NULL, {ago("60")} FROM {numbers}
            WHERE n > {sagas - LOCKED}""",
        f"INSERT INTO saga_lock (key, ticket, next_ticket, created_at) VALUES ('k', 0, {LOCKED + 1}, {ago('60')})",
    ]
