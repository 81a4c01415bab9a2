"""docker-compose.yml and the Dockerfile, as far as they can be checked without an engine to run them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.settings import Settings
from orchestrator.store.core.database import Database
from orchestrator.worker.process.manager import DRAIN

ROOT = Path(__file__).parents[2]
TEMPORAL_VARIABLES = {"TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE"}
"""Of those that Temporal's SDK reads, the ones in use here."""


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The composition's services by name."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return loaded


def test_the_team_gets_temporal_its_web_ui_two_databases_and_a_worker(services: dict[str, Any]) -> None:
    expected = {"application-database", "temporal-database", "temporal", "temporal-ui", "worker"}

    assert expected == set(services)


def test_the_worker_is_given_settings_that_exist(services: dict[str, Any]) -> None:
    known = {f"ORCHESTRATOR_{name.upper()}" for name in Settings.model_fields} | TEMPORAL_VARIABLES

    assert set(services["worker"]["environment"]) <= known


def test_the_worker_has_time_to_drain_before_it_is_killed(services: dict[str, Any]) -> None:
    grace = re.fullmatch(r"(\d+)s", services["worker"]["stop_grace_period"])

    assert grace is not None
    assert int(grace[1]) > DRAIN.total_seconds()


def test_the_workers_database_url_is_one_and_names_the_applications_database(services: dict[str, Any]) -> None:
    database = Database(services["worker"]["environment"]["ORCHESTRATOR_DATABASE_URL"])
    given = services["application-database"]["environment"]

    assert database.url.host == "application-database"
    assert (database.url.username, database.url.password, database.url.database) == (
        given["POSTGRES_USER"],
        given["POSTGRES_PASSWORD"],
        given["POSTGRES_DB"],
    )


def test_whoever_is_waited_for_tells_when_it_is_healthy(services: dict[str, Any]) -> None:
    waited_for = {
        (name, dependency, wish["condition"])
        for name, service in services.items()
        for dependency, wish in service.get("depends_on", {}).items()
    }

    assert {condition for _, _, condition in waited_for} == {"service_healthy"}
    assert [dependency for _, dependency, _ in waited_for if "healthcheck" not in services[dependency]] == []


def test_ports_are_open_to_this_machine_only_and_images_have_versions(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    images = [service["image"] for service in services.values() if "image" in service]

    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert [image for image in images if not re.search(r":\d", image)] == []


def test_the_image_runs_the_worker_without_being_root_from_files_that_exist() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert "USER worker" in lines
    assert 'CMD ["python", "worker.py"]' in lines
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert set(copied) <= let_in
