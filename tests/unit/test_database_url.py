"""Database URLs accept libpq's parameters, refuse what cannot work in one sentence, and never show a password."""

import pytest

from orchestrator.store.connections.errors import DatabaseCondition, DatabaseUnusable
from orchestrator.store.connections.libpq_parameters import PostgresAddress
from orchestrator.store.connections.url import parse_database_url
from orchestrator.store.core.database import Database

_SETTING = "ORCHESTRATOR_DATABASE_URL"


def address(url: str) -> PostgresAddress:
    """The PostgreSQL address in a URL."""
    parsed = parse_database_url(url, _SETTING).postgres
    assert parsed is not None
    return parsed


@pytest.mark.parametrize(
    ("url", "hosts", "user", "password", "database"),
    [
        ("postgresql://joe:secret@db/shop", (("db", None),), "joe", "secret", "shop"),
        ("postgres://joe@db:5433/shop", (("db", 5433),), "joe", None, "shop"),
        ("postgresql+psycopg2://joe:secret@db/shop", (("db", None),), "joe", "secret", "shop"),
        ("postgresql://", (), None, None, None),
        ("postgresql:///shop", (), None, None, "shop"),
        ("postgresql://joe:p%40s%2Fs%3Aw%23r%3Fd%25@db/shop", (("db", None),), "joe", "p@s/s:w#r?d%", "shop"),
        ("postgresql://joe:p@ss@db/shop", (("db", None),), "joe", "p@ss", "shop"),
        ("postgresql://joe:p/s:s#w?rd@db/shop", (("db", None),), "joe", "p/s:s#w?rd", "shop"),
        ("postgresql://joe:p@s/s@db/shop?sslmode=require", (("db", None),), "joe", "p@s/s", "shop"),
        ("postgresql://joe:p?a=b@db/shop", (("db", None),), "joe", "p?a=b", "shop"),
        ("postgresql://[2001:db8::7]:5433/shop", (("2001:db8::7", 5433),), None, None, "shop"),
        ("postgresql://[::1]/shop", (("::1", None),), None, None, "shop"),
        ("postgresql://one,two:5433/shop", (("one", 5432), ("two", 5433)), None, None, "shop"),
        ("postgresql://one:1,[::1]:2,three/shop", (("one", 1), ("::1", 2), ("three", 5432)), None, None, "shop"),
        ("postgresql:///shop?host=one,two&port=1,2", (("one", 1), ("two", 2)), None, None, "shop"),
        ("postgresql:///shop?host=one,two&port=7", (("one", 7), ("two", 7)), None, None, "shop"),
        ("postgresql:///shop?host=one:1&host=two:2", (("one", 1), ("two", 2)), None, None, "shop"),
        ("postgresql:///shop?host=/run/postgresql", (("/run/postgresql", None),), None, None, "shop"),
        ("postgresql://%2Frun%2Fpostgresql/shop", (("/run/postgresql", None),), None, None, "shop"),
        ("postgresql://joe:secret@/shop?host=/tmp/x", (("/tmp/x", None),), "joe", "secret", "shop"),
        ("postgresql://db?dbname=shop&user=a@b&password=p%26w", (("db", None),), "a@b", "p&w", "shop"),
        ("postgresql://db/my%20shop%2Fold", (("db", None),), None, None, "my shop/old"),
    ],
)
def test_hosts_user_password_and_database_are_parsed_as_by_libpq(
    url: str, hosts: tuple[tuple[str, int | None], ...], user: str | None, password: str | None, database: str | None
) -> None:
    parsed = address(url)

    assert (parsed.hosts, parsed.user, parsed.password, parsed.database) == (hosts, user, password, database)
    again = address(parse_database_url(url, _SETTING).url.render_as_string(hide_password=False))
    assert (again.hosts, again.user, again.password, again.database) == (hosts, user, password, database)


def test_parameters_are_parsed_as_by_libpq() -> None:
    parsed = address(
        "postgresql://db/shop?sslmode=verify-full&sslrootcert=/etc/ca.pem&connect_timeout=5&application_name=my%20app"
        "&options=-c%20search_path%3Dshop%5C%20two%20--statement-timeout=60s&target_session_attrs=read-write"
        "&keepalives_idle=30&tcp_user_timeout=9000&load_balance_hosts=random&channel_binding=prefer&gssencmode=disable"
    )

    assert parsed.asyncpg == {"sslmode": "verify-full", "sslrootcert": "/etc/ca.pem"}
    assert parsed.settings == {
        "search_path": "shop two",
        "statement_timeout": "60s",
        "application_name": "my app",
    }
    assert (parsed.timeout, parsed.session, parsed.shuffles_hosts) == (5, "read-write", True)
    assert parsed.socket_options == {"keepalives_idle": 30, "tcp_user_timeout": 9000}


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"])
def test_each_sslmode_is_passed_on(mode: str) -> None:
    assert address(f"postgresql://db/shop?sslmode={mode}").asyncpg == {"sslmode": mode}


@pytest.mark.parametrize(("ssl", "mode"), [("require", "require"), ("true", "require"), ("false", "disable")])
def test_the_ssl_parameter_of_other_drivers_is_accepted(ssl: str, mode: str) -> None:
    assert address(f"postgresql://db/shop?ssl={ssl}").asyncpg == {"sslmode": mode}


@pytest.mark.parametrize(("seconds", "timeout"), [("5", 5.0), ("0", None), ("-1", None)])
def test_a_connect_timeout_of_zero_means_no_timeout_as_in_libpq(seconds: str, timeout: float | None) -> None:
    assert address(f"postgresql://db/shop?connect_timeout={seconds}").timeout == timeout


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://db/shop?sslmode=maybe", "sslmode must be one of"),
        ("postgresql://db/shop?target_session_attrs=both", "target_session_attrs must be one of"),
        ("postgresql://db/shop?connect_timeout=soon", "connect_timeout must be a whole number"),
        ("postgresql://db:0/shop", "a port must be a number"),
        ("postgresql://db:99999/shop", "a port must be a number"),
        ("postgresql:///shop?host=a,b,c&port=1,2", "3 hosts and 2 ports"),
        ("postgresql://db/shop?channel_binding=require", "channel_binding=require"),
        ("postgresql://db/shop?gssencmode=require", "gssencmode=require"),
        ("postgresql://db/shop?hostaddr=10.0.0.1", "hostaddr"),
        ("postgresql://db/shop?sslcrldir=/x", "sslcrldir"),
        ("postgresql://db/shop?client_encoding=latin1", "client_encoding=latin1"),
        ("postgresql://db/shop?sslrootcert=system&sslmode=require", "verify-full"),
        ("postgresql://db/shop?options=work_mem", "options must be a list of session settings"),
        ("postgresql://db/shop?options=-c", "options ends with -c"),
        ("postgresql://db/shop?colour=blue", "'colour'"),
        ("sqlite:///file.db?colour=blue", "'colour'"),
        ("sqlite://file.db", "three slashes"),
        ("mysql://localhost/x", "names mysql"),
        ("not a url", "is not a database URL"),
    ],
)
def test_an_unusable_url_is_refused_with_the_name_of_the_setting(url: str, message: str) -> None:
    with pytest.raises(DatabaseUnusable) as raised:
        Database(url)

    assert _SETTING in str(raised.value)
    assert message in str(raised.value)
    assert raised.value.condition is DatabaseCondition.MISCONFIGURED


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://joe:hush@hush@db/shop",
        "postgresql://joe:hush/hush@db/shop",
        "postgresql://joe:hush#hush@db/shop",
        "postgresql://joe:hush?hush@db/shop",
        "postgresql://joe:hush:hush@db/shop",
        "postgresql://joe:hush%zz@db/shop",
        "postgresql://joe:hush@hush/hush@hush:hush?hush=hush&hush@db/shop",
        "postgresql://joe:hush@hush@db:hush/shop",
        "postgresql://joe:hush hush@db/shop",
        "postgresql://joe:hush",
        "postgresql://joe:hush/shop",
        "postgresql://joe:hush#@db,,:/shop?x",
        "postgresql://joe:[hush@db/shop",
        "postgresql://joe:hush]@db/shop?sslmode=hush",
        "postgresql://db/shop?user=joe&password=hush",
        "postgresql://db/shop?user=joe&password=hush@hush%40hush",
        "postgresql://joe@db/shop?sslpassword=hush",
        "postgresql:/joe:hush@db/shop",
        "joe:hush@db/shop",
        "sqlite://joe:hush@db/shop",
    ],
)
def test_no_part_of_a_password_is_shown(url: str) -> None:
    shown: list[str] = []
    try:
        database = Database(url)
    except DatabaseUnusable as fault:
        shown += [str(fault), repr(fault), repr(fault.__cause__)]
    else:
        shown += [database.shown, str(database.unreachable(OSError("refused"))), repr(database.engine)]
        shown += [repr(database.url)] if "=hush" not in url.rpartition("?")[2] else []

    assert "hush" not in " ".join(shown)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://joe:hush@db:5433/shop?sslmode=require", "postgresql://joe:***@db:5433/shop"),
        ("postgresql://one:1,[::1]:2/shop", "postgresql://one:1,[::1]:2/shop"),
        ("postgresql://joe:hush@/shop?host=/tmp/x", "postgresql://joe:***@/shop?host=/tmp/x"),
        ("postgresql://db?dbname=shop&user=a@b&password=hush", "postgresql://a%40b:***@db/shop"),
        ("sqlite:///file.db", "sqlite:///file.db"),
    ],
)
def test_a_url_is_shown_as_it_would_be_typed_but_without_its_password(url: str, shown: str) -> None:
    assert Database(url).shown == shown
