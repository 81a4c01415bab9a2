"""Settings: from the environment, then `[tool.orchestrator]` in `pyproject.toml`, then what the embedded mode left."""

import json
import logging
import os
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from orchestrator.protocol.unwrapping import describe

_PREFIX = "ORCHESTRATOR_"

RUNNING_FILE = "running.json"
"""In the state folder: where the embedded server listens, for every other process."""


class InvalidSettings(OrchestratorError):
    """A setting has a wrong value, or the settings cannot be read. The message names the setting and what to write."""


class Settings(BaseSettings):
    """Each as `ORCHESTRATOR_<NAME>` in the environment. Temporal's own `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`,
    `TEMPORAL_API_KEY`, `TEMPORAL_TLS_*` and `TEMPORAL_PROFILE` are read by its SDK and come first.

    Raises:
        InvalidSettings: a value is wrong, or a variable is set and empty, or `pyproject.toml` cannot be read.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, pyproject_toml_table_header=("tool", "orchestrator"), extra="ignore"
    )

    packages: Annotated[tuple[str, ...], NoDecode] = ("events", "activities", "workflows")
    """Where events, operations and orchestrators are found; in the environment with commas between."""
    title: str = ""
    """The application's name in its catalog; without it, the name of its folder."""
    state_dir: Path = Path(".state")
    """Folder of the embedded mode: both databases, logs, `running.json`."""
    database_url: str = ""
    """The home database, as `postgresql://user:password@host/name` or `sqlite:///file.db`; without it, SQLite in
    the state folder."""
    databases: dict[str, str] = {}
    """The databases of domains that have one of their own, by the name that `@operation(database=...)` gives: in the
    environment a JSON object, in `pyproject.toml` a table."""
    task_queue: str = Field(default="orchestrator", min_length=1, max_length=1000, pattern=r"\S")
    """Temporal task queue of workers and bus; the two must agree."""
    temporal_address: str = ""
    """`host:port`; `TEMPORAL_ADDRESS` comes first, then this, then the embedded server, then localhost:7233."""
    ui_url: str = ""
    """Where the Web UI is, for links."""
    create_tables: bool = True
    """Whether a worker creates the application's missing tables. Turn it off where somebody else does."""
    migrations: Path | None = None
    """Folder of the application's own Alembic migrations, which a worker that creates tables runs in the home database
    first."""
    log_level: str = "WARNING"
    """Of the worker: DEBUG, INFO, WARNING or ERROR."""
    max_concurrent_steps: int = Field(default=100, ge=1)
    """Activities that one worker runs at once."""
    pool_size: int = Field(default=20, ge=1)
    """Connections that each process keeps to each database; fewer in all than its `max_connections`."""
    processes: int = Field(default=1, ge=1)
    """Worker processes under one supervisor; `--processes` comes first."""
    loop_blocked_limit: float = Field(default=2, ge=0)
    """Seconds that a worker's event loop may be blocked before the process ends itself; 0: for ever (debugger)."""
    recovery_interval: int = Field(default=30, ge=0)
    """Seconds from one recovery to the next; 0 turns it off."""
    recovery_grace: int = Field(default=30, ge=0)
    """Seconds without progress before recovery asks who drives a saga; 30 more for one that waits for a lock."""
    retention: int = Field(default=90, ge=0)
    """Days after which an ended saga's steps and payload are deleted; its outcome stays. 0: never."""
    recovery_ceiling: int = Field(default=500, ge=1)
    """Sagas that one recovery acts upon at most; the others are the next one's."""

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
        """The database's URL, the default filled in."""
        return self.database_url or f"sqlite:///{self.state_dir / 'application.db'}"

    @property
    def has_database(self) -> bool:
        """Whether a client can read the home database itself: its address is set, or the embedded one is here."""
        return bool(self.database_url) or (self.state_dir / "application.db").is_file()

    @property
    def resolved_temporal_address(self) -> str | None:
        """Where Temporal is, if these settings or the embedded mode say so."""
        return self.temporal_address or self._running().get("temporal_address")

    @property
    def resolved_ui_url(self) -> str:
        """Where the Web UI is, as far as is known."""
        return (self.ui_url or self._running().get("ui_url") or "http://localhost:8233").rstrip("/")

    def _running(self) -> dict[str, Any]:
        try:
            loaded: object = json.loads((self.state_dir / RUNNING_FILE).read_text())
        except (OSError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}  # pyright: ignore[reportUnknownVariableType]


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
