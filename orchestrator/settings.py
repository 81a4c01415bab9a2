"""Settings: from the environment, then `[tool.orchestrator]` in `pyproject.toml`, then what the embedded mode left."""

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

from orchestrator.definition.databases import fault_of_name
from orchestrator.errors import OrchestratorError
from orchestrator.operation import HOME
from orchestrator.protocol.validation_errors import describe

DISTRIBUTION = "temporal-saga-orchestrator"
"""The engine's name in a package index."""
_PREFIX = "ORCHESTRATOR_"

RUNNING_FILE = "running.json"
"""In the state folder: where the embedded server listens, for every other process."""


class InvalidSettings(OrchestratorError):
    """A setting has a wrong value, or the settings cannot be read. The message names the setting and what to write."""


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
    """The number of activities that one worker process runs at once."""
    pool_size: int = Field(default=20, ge=1)
    """The most connections that each process keeps to each database. The sum over all processes must stay below
    PostgreSQL's `max_connections`."""
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
    """The most sagas on which one recovery sweep acts; the next sweep continues with the others."""

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
    def _split(cls, given: object) -> object:
        return tuple(name.strip() for name in given.split(",") if name.strip()) if isinstance(given, str) else given

    @field_validator("packages")
    @classmethod
    def _named(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if not given:
            raise ValueError("no package is named; write the modules of the application, with commas between")
        for name in given:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"{name!r} is no name of a module; write it as an import statement does")
        return given

    @field_validator("log_level")
    @classmethod
    def _level(cls, given: str) -> str:
        if given.upper() not in logging.getLevelNamesMapping():
            raise ValueError(f"{given!r} is no level; write DEBUG, INFO, WARNING, ERROR or CRITICAL")
        return given.upper()

    @field_validator("retention", mode="before")
    @classmethod
    def _never(cls, given: object) -> object:
        return given or 0

    @field_validator("databases")
    @classmethod
    def _names(cls, given: dict[str, str]) -> dict[str, str]:
        for name in given:
            if (fault := fault_of_name(name)) is not None:
                raise ValueError(fault)
            if name == HOME:
                raise ValueError("the home database is ORCHESTRATOR_DATABASE_URL")
        return given

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the project's file."""
        return (init_settings, env_settings, PyprojectTomlConfigSettingsSource(settings_cls))

    @property
    def resolved_database_url(self) -> str:
        """The database's URL: the setting, else that of a database beside the embedded server, else the default."""
        running = self._running().get("database_url") if not self.database_url else ""
        return self.database_url or running or f"sqlite:///{self.state_dir / 'application.db'}"

    @property
    def has_database(self) -> bool:
        """Whether a client can read the home database itself: its address is set, or the embedded one is here."""
        is_set = bool(self.database_url or self._running().get("database_url"))
        return is_set or (self.state_dir / "application.db").is_file()

    @property
    def resolved_temporal_address(self) -> str | None:
        """Where Temporal is, if these settings or the embedded mode say so."""
        return self.temporal_address or self._running().get("temporal_address")

    @property
    def resolved_ui_url(self) -> str:
        """Where the Web UI is, as far as is known."""
        return (self.ui_url or self._running().get("ui_url") or "http://localhost:8233").rstrip("/")

    @classmethod
    def state_dir_of_project(cls) -> Path:
        """The state folder of commands whose environment names none."""
        in_file = PyprojectTomlConfigSettingsSource(cls)().get("state_dir")
        return Path(in_file or cls.model_fields["state_dir"].default)

    def _running(self) -> dict[str, Any]:
        try:
            loaded: object = json.loads((self.state_dir / RUNNING_FILE).read_text())
        except (OSError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def command_to_start(what: Literal["dev", "worker"]) -> str:
    """The command that starts a server and a worker, or only a worker, in this project; for messages."""
    name = f"{what}_command"
    try:
        return str(getattr(Settings(), name))
    except InvalidSettings:  # reported elsewhere; here another message is being written
        return str(Settings.model_fields[name].default)


_MAY_BE_EMPTY = ("retention",)
"""Settings to which an empty value says something: never."""


def _refuse_empty_variables(fields: Collection[str]) -> None:
    """An empty variable is a mistake in whatever sets it, as in `ORCHESTRATOR_DATABASE_URL=$UNSET`.

    Raises:
        InvalidSettings: there is one. With the default instead, a worker would write into another database.
    """
    for name, value in os.environ.items():
        field = name.upper().removeprefix(_PREFIX).lower()
        if name.upper().startswith(_PREFIX) and field in fields and field not in _MAY_BE_EMPTY and not value.strip():
            raise InvalidSettings(f"{name} is set and empty. Give it a value, or unset it to have the default")
