"""Settings from the environment, from `[tool.orchestrator]` in `pyproject.toml`, and from a running embedded server."""

import json
import logging
import os
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    PyprojectTomlConfigSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from orchestrator.definition.checks.databases import fault_of_name
from orchestrator.errors import OrchestratorError
from orchestrator.operation import HOME
from orchestrator.protocol.messages.validation_errors import describe

DISTRIBUTION = "temporal-saga-orchestrator"
"""The engine's name in a package index."""
_PREFIX = "ORCHESTRATOR_"

RUNNING_FILE = "running.json"
"""The file in the state folder that tells other processes the addresses of the embedded server."""


class InvalidSettings(OrchestratorError):
    """A setting has a wrong value, or the settings cannot be read. The message says which one, and what to write."""


class Settings(BaseSettings):
    """The settings, each of which is `ORCHESTRATOR_<NAME>` in the environment.

    Temporal's own `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, `TEMPORAL_TLS_*` and `TEMPORAL_PROFILE`
    are read by its SDK and take precedence.

    Raises:
        InvalidSettings: a value is wrong, or a variable is set and empty, or `pyproject.toml` cannot be read.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, pyproject_toml_table_header=("tool", "orchestrator"), extra="ignore"
    )

    packages: Annotated[tuple[str, ...], NoDecode] = ("events", "activities", "workflows")
    """The packages or modules that declare events, operations and orchestrators; in the environment separated by
    commas."""
    title: str = ""
    """The application's name in its catalog. The default is the name of its folder."""
    state_dir: Path = Path(".orchestrator")
    """The folder of the embedded mode, with both databases, the logs and `running.json`."""
    database_url: str = ""
    """The home database, as `postgresql://user:password@host/name` or `sqlite:///file.db`. The default is a SQLite file
    in the state folder."""
    databases: dict[str, str] = {}
    """The databases of domains that have their own, by the name in `@operation(database=...)`: a JSON object in the
    environment, a table in `pyproject.toml`."""
    contracts: Path = Path("events/contracts.json")
    """The file of the events' published contracts."""
    payloads: Path = Path("tests/payloads")
    """The folder of stored events that the code must still be able to read."""
    task_queue: str = Field(default="orchestrator", min_length=1, max_length=1000, pattern=r"\S")
    """The Temporal task queue. Workers and the bus must use the same one."""
    temporal_address: str = ""
    """The `host:port` of Temporal. `TEMPORAL_ADDRESS` takes precedence; without either, a running embedded server is
    used, otherwise localhost:7233."""
    ui_url: str = ""
    """The address of the Web UI, for links."""
    create_tables: bool = True
    """Whether a worker creates the application's missing tables. Turn it off if another program creates them."""
    migrations: Path | None = None
    """The folder of the application's own Alembic migrations. A worker that creates tables runs them first, in the home
    database."""
    log_level: str = "WARNING"
    """The worker's log level: DEBUG, INFO, WARNING or ERROR."""
    max_concurrent_steps: int = Field(default=100, ge=1)
    """The maximum number of activities that one worker process runs concurrently."""
    pool_size: int = Field(default=20, ge=1)
    """The maximum number of connections that each process keeps to each database. The sum over all processes must stay
    below PostgreSQL's `max_connections`."""
    dev_command: str = Field(default="orchestrator dev", min_length=1)
    """The command that starts a server and a worker of this project; messages recommend it."""
    worker_command: str = Field(default="orchestrator worker", min_length=1)
    """The command that starts a worker of this project; messages recommend it."""
    processes: int = Field(default=1, ge=1)
    """The number of worker processes under one supervisor. The option `--processes` takes precedence."""
    loop_blocked_limit: float = Field(default=2, ge=0)
    """Seconds that a worker's event loop may be blocked before the process ends itself; 0 means no limit, for a
    debugger."""
    recovery_interval: int = Field(default=30, ge=0)
    """Seconds between two recovery sweeps; 0 turns recovery off."""
    recovery_grace: int = Field(default=30, ge=0)
    """Seconds without progress before recovery examines a saga; 30 seconds more if the saga waits for a lock."""
    retention: int = Field(default=90, ge=0)
    """Days after which the steps and payload of an ended saga are deleted; its outcome is kept. 0 means never."""
    recovery_ceiling: int = Field(default=500, ge=1)
    """The maximum number of sagas on which one recovery sweep acts; the next sweep continues with the others."""

    if not TYPE_CHECKING:  # the type checkers know the fields from pydantic

        def __init__(self, **values: Any) -> None:
            _refuse_empty_variables(type(self).model_fields)
            try:
                super().__init__(**values)
            except ValidationError as fault:
                raise InvalidSettings(f"The settings {_PREFIX}… are wrong: {describe(fault)}") from None
            except SettingsError as fault:
                cause = f" ({fault.__cause__})" if fault.__cause__ else ""
                raise InvalidSettings(f"The settings {_PREFIX}… are wrong: {fault}{cause}") from None
            except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as fault:
                raise InvalidSettings(f"pyproject.toml cannot be read: {fault}") from None

    @field_validator("packages", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("packages")
    @classmethod
    def _named(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError("the list of packages is empty; write the modules of the application, separated by commas")
        for name in names:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"{name!r} is not a module name; write it as in an import statement")
        return names

    @field_validator("log_level")
    @classmethod
    def _level(cls, level: str) -> str:
        if level.upper() not in logging.getLevelNamesMapping():
            raise ValueError(f"{level!r} is not a log level; write DEBUG, INFO, WARNING, ERROR or CRITICAL")
        return level.upper()

    @field_validator("retention", mode="before")
    @classmethod
    def _never(cls, days: object) -> object:
        return days or 0

    @field_validator("databases")
    @classmethod
    def _names(cls, databases: dict[str, str]) -> dict[str, str]:
        for name in databases:
            if (fault := fault_of_name(name)) is not None:
                raise ValueError(fault)
            if name == HOME:
                raise ValueError("the home database is ORCHESTRATOR_DATABASE_URL")
        return databases

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in order of precedence: arguments, the environment, the project's file."""
        return (init_settings, env_settings, PyprojectTomlConfigSettingsSource(settings_cls))

    @property
    def resolved_database_url(self) -> str:
        """The home database's URL: the setting, otherwise that of the embedded mode, otherwise the default."""
        running = self._running().get("database_url") if not self.database_url else ""
        return self.database_url or running or f"sqlite:///{self.state_dir / 'application.db'}"

    @property
    def has_database(self) -> bool:
        """Whether a client can read the home database itself: its URL is configured, or its default file exists."""
        is_set = bool(self.database_url or self._running().get("database_url"))
        return is_set or (self.state_dir / "application.db").is_file()

    @property
    def resolved_temporal_address(self) -> str | None:
        """Temporal's address, if these settings or the embedded mode provide one."""
        return self.temporal_address or self._running().get("temporal_address")

    @property
    def resolved_ui_url(self) -> str:
        """The address of the Web UI: the setting, otherwise that of the embedded mode, otherwise the default."""
        return (self.ui_url or self._running().get("ui_url") or "http://localhost:8233").rstrip("/")

    @classmethod
    def state_dir_of_project(cls) -> Path:
        """Return the project's state folder, for commands whose environment does not set one."""
        in_file = PyprojectTomlConfigSettingsSource(cls)().get("state_dir")
        return Path(in_file or cls.model_fields["state_dir"].default)

    def _running(self) -> dict[str, Any]:
        try:
            loaded: object = json.loads((self.state_dir / RUNNING_FILE).read_text())
        except (OSError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def command_to_start(what: Literal["dev", "worker"]) -> str:
    """Return the command that starts a server and a worker, or only a worker, in this project; for messages."""
    name = f"{what}_command"
    try:
        return str(getattr(Settings(), name))
    except InvalidSettings:  # reported elsewhere; the caller is writing another message
        return str(Settings.model_fields[name].default)


_MAY_BE_EMPTY = ("retention",)
"""Settings for which an empty value has a meaning: never."""


def _refuse_empty_variables(fields: Collection[str]) -> None:
    """Refuse variables that are set and empty, which are mistakes such as `ORCHESTRATOR_DATABASE_URL=$UNSET`.

    Raises:
        InvalidSettings: a variable is set and empty. With the default value instead, a worker would write to another
            database.
    """
    for name, value in os.environ.items():
        field = name.upper().removeprefix(_PREFIX).lower()
        if name.upper().startswith(_PREFIX) and field in fields and field not in _MAY_BE_EMPTY and not value.strip():
            raise InvalidSettings(f"{name} is set and empty. Set it to a value, or unset it to use the default")
