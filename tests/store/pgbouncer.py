"""Debian's PgBouncer in front of a PostgreSQL server, for tests and benchmarks."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from sqlalchemy.engine import make_url

from orchestrator.devserver.ports import free_port
from orchestrator.store.core.database import Database

Mode = Literal["session", "transaction", "statement"]

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
"""Path of the program, or None if Debian's package `pgbouncer` is not installed."""
_PATIENCE = 20.0
_LOOK = 0.02


@asynccontextmanager
async def pgbouncer(url: str, mode: Mode, *, connections: int = 4, settings: str = "") -> AsyncGenerator[str]:
    """Run PgBouncer with its default settings; yields the URL of the database through it.

    Args:
        url: URL of the database behind it, whose server trusts local users.
        mode: the `pool_mode`.
        connections: number of connections to the server; fewer than the clients have, so that clients share them.
        settings: further lines for its configuration file.
    """
    assert PGBOUNCER is not None
    target = make_url(url)
    port = free_port(0)
    behind = f"host={target.query['host']} dbname={target.database} user={target.username}"
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    os.chmod(folder, 0o755)  # PgBouncer refuses to run as root, so it runs as PostgreSQL's user
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        f"[databases]\n{target.database} = {behind}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"unix_socket_dir =\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = {connections}\n"
        f"max_client_conn = 200\n{settings}\n"
    )
    log = folder / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            PGBOUNCER,
            str(configuration),
            stdout=output,
            stderr=output,
            user=os.stat(str(target.query["host"])).st_uid if os.geteuid() == 0 else None,
        )
    try:
        async with asyncio.timeout(_PATIENCE):
            while b"process up" not in log.read_bytes():
                if process.returncode is not None:
                    raise AssertionError(f"PgBouncer ended: {log.read_text()}")
                await asyncio.sleep(_LOOK)
        yield f"postgresql://{target.username}@127.0.0.1:{port}/{target.database}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def behind(database: Database) -> str:
    """The URL of a database, including the password that PgBouncer needs."""
    return database.url.render_as_string(hide_password=False)
