"""Connecting to PostgreSQL with a URL's parameters: TLS, startup settings, several hosts, timeouts."""

import asyncio
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import text

from orchestrator.store.connections.errors import DatabaseCondition, DatabaseUnusable
from orchestrator.store.core.database import Database
from tests.store.error_server import error_server


class Certificates:
    """A certificate authority, a server certificate for `localhost`, and a second authority that has signed nothing."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.stranger = folder / "ca.pem", folder / "stranger.pem"
        certificate = folder / "server.pem"
        request, extensions = folder / "server.csr", folder / "extensions"
        extensions.write_text("subjectAltName=DNS:localhost")
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        for name in (self.authority, self.stranger):
            _openssl("req", "-x509", *new_key, "-keyout", f"{name}.key", "-out", name, "-subj", "/CN=ca", "-days", "2")
        _openssl("req", *new_key, "-keyout", f"{certificate}.key", "-out", request, "-subj", "/CN=localhost")
        signing = ("-CA", self.authority, "-CAkey", f"{self.authority}.key", "-CAcreateserial", "-days", "2")
        _openssl("x509", "-req", "-in", request, "-out", certificate, "-extfile", extensions, *signing)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(certificate, f"{certificate}.key")


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates that the tests of this module share."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is missing")
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set an empty home directory, so that no ~/.postgresql is read."""
    monkeypatch.setenv("HOME", str(tmp_path))


async def answer_to(url: str) -> DatabaseUnusable:
    """The error of a worker that starts on a database."""
    database = Database(url)
    try:
        with pytest.raises(DatabaseUnusable) as raised:
            await database.check()
    finally:
        await database.close()
    return raised.value


ANSWERED = DatabaseCondition.NO_SUCH_DATABASE
"""The login reached the server, which answered with its error."""


@pytest.mark.parametrize(
    ("mode", "has_tls", "condition", "encrypted"),
    [
        ("disable", True, ANSWERED, [False]),
        ("disable", False, ANSWERED, [False]),
        ("allow", True, ANSWERED, [False]),
        ("prefer", True, ANSWERED, [True]),
        ("prefer", False, ANSWERED, [False]),
        ("require", True, ANSWERED, [True]),
        ("require", False, DatabaseCondition.TLS_FAILED, []),
        ("verify-ca", True, ANSWERED, [True]),
        ("verify-ca", False, DatabaseCondition.TLS_FAILED, []),
        ("verify-full", True, ANSWERED, [True]),
        ("verify-full", False, DatabaseCondition.TLS_FAILED, []),
    ],
)
async def test_each_sslmode_encrypts_as_libpq_does(
    certificates: Certificates, mode: str, has_tls: bool, condition: DatabaseCondition, encrypted: list[bool]
) -> None:
    async with error_server(certificates.server if has_tls else None) as server:
        root = f"&sslrootcert={certificates.authority}" if mode.startswith("verify") else ""
        answer = await answer_to(f"postgresql://joe:hush@localhost:{server.port}/shop?sslmode={mode}{root}")

    # After the server's error, `allow` and `prefer` also try with or without TLS, so only the first attempt counts.
    assert (answer.condition, server.encrypted[:1]) == (condition, encrypted)
    assert "hush" not in str(answer)


@pytest.mark.parametrize(
    ("mode", "host", "is_untrusted", "condition"),
    [
        (
            "require",
            "localhost",
            True,
            DatabaseCondition.TLS_FAILED,
        ),  # libpq also verifies if there is a root certificate
        ("verify-ca", "localhost", True, DatabaseCondition.TLS_FAILED),
        ("verify-ca", "127.0.0.1", False, ANSWERED),
        ("verify-full", "127.0.0.1", False, DatabaseCondition.TLS_FAILED),
        ("verify-full", "localhost", True, DatabaseCondition.TLS_FAILED),
    ],
)
async def test_the_certificate_is_verified_according_to_the_sslmode(
    certificates: Certificates, mode: str, host: str, is_untrusted: bool, condition: DatabaseCondition
) -> None:
    root = certificates.stranger if is_untrusted else certificates.authority
    async with error_server(certificates.server) as server:
        answer = await answer_to(f"postgresql://{host}:{server.port}/shop?sslmode={mode}&sslrootcert={root}")

    assert answer.condition is condition
    assert ("sslrootcert" in str(answer)) is (condition is DatabaseCondition.TLS_FAILED)


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslkey", "sslcrl"])
async def test_an_unreadable_file_is_named_with_its_parameter(name: str) -> None:
    answer = await answer_to(f"postgresql://localhost:1/shop?sslmode=require&{name}=/nowhere/file.pem")

    assert answer.condition is DatabaseCondition.MISCONFIGURED
    assert f"{name} names /nowhere/file.pem, which cannot be read: No such file" in str(answer)


async def test_verification_without_a_root_certificate_is_refused() -> None:
    answer = await answer_to("postgresql://localhost:1/shop?sslmode=verify-full")

    assert answer.condition is DatabaseCondition.MISCONFIGURED
    assert "root certificate file" in str(answer)


async def test_settings_in_the_url_override_the_engines_settings() -> None:
    async with error_server() as server:
        await answer_to(
            f"postgresql://joe@127.0.0.1:{server.port}/shop?application_name=till%207&sslmode=disable"
            "&options=-c%20search_path%3Dshop%20-c%20statement_timeout%3D60s"
        )

    [startup] = server.startups
    assert (startup["user"], startup["database"], startup["application_name"]) == ("joe", "shop", "till 7")
    assert (startup["search_path"], startup["statement_timeout"], startup["lock_timeout"]) == ("shop", "60s", "10s")


async def test_the_next_host_is_tried_if_one_is_down_or_starting_up() -> None:
    async with error_server() as last, error_server(sqlstate="57P03") as starting:
        answer = await answer_to(
            f"postgresql://127.0.0.1:1,127.0.0.1:{starting.port},127.0.0.1:{last.port}/shop?sslmode=disable"
        )

    assert answer.condition is ANSWERED
    assert (len(starting.startups), len(last.startups)) == (1, 1)


async def test_no_other_host_is_tried_after_a_refused_login() -> None:
    async with error_server(sqlstate="28P01") as first, error_server() as second:
        answer = await answer_to(
            f"postgresql://joe:hush@127.0.0.1:{first.port},127.0.0.1:{second.port}/shop?sslmode=disable"
        )

    assert answer.condition is DatabaseCondition.LOGIN_REFUSED
    assert second.startups == []


async def test_when_all_hosts_fail_each_is_named_with_its_error() -> None:
    answer = await answer_to("postgresql://127.0.0.1:1,127.0.0.1:2/shop")

    assert answer.condition is DatabaseCondition.DOWN
    assert "127.0.0.1:1: " in str(answer)
    assert "127.0.0.1:2: " in str(answer)


async def test_an_unresponsive_host_costs_only_its_own_connect_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with error_server() as second:
            port = silent.getsockname()[1]
            async with asyncio.timeout(9):
                answer = await answer_to(
                    f"postgresql://127.0.0.1:{port},127.0.0.1:{second.port}/shop?connect_timeout=1&sslmode=disable"
                )

    assert answer.condition is ANSWERED


@pytest.mark.parametrize(
    ("session", "is_accepted"),
    [("any", True), ("read-write", True), ("prefer-standby", True), ("read-only", False), ("standby", False)],
)
async def test_target_session_attrs_selects_the_host(postgres: str, session: str, is_accepted: bool) -> None:
    folder = postgres.rpartition("host=")[2]
    url = f"postgresql://postgres@/postgres?host=/nowhere,{folder}&target_session_attrs={session}"
    if not is_accepted:
        assert f"its session is not {session}" in str(await answer_to(url))
        return

    database = Database(url)
    async with database.reading() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await database.close()
