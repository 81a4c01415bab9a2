"""Checks docker-compose.yml and the Dockerfile without running them."""

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
"""The variables of Temporal's SDK that the project uses."""


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of docker-compose.yml, by name."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return loaded


def test_compose_has_temporal_its_web_ui_two_databases_and_a_worker(services: dict[str, Any]) -> None:
    expected = {"application-database", "temporal-database", "temporal", "temporal-ui", "worker"}

    assert expected == set(services)


def test_the_workers_environment_has_only_existing_settings(services: dict[str, Any]) -> None:
    known = {f"ORCHESTRATOR_{name.upper()}" for name in Settings.model_fields} | TEMPORAL_VARIABLES

    assert set(services["worker"]["environment"]) <= known


def test_the_worker_has_time_to_drain_before_it_is_killed(services: dict[str, Any]) -> None:
    grace = re.fullmatch(r"(\d+)s", services["worker"]["stop_grace_period"])

    assert grace is not None
    assert int(grace[1]) > DRAIN.total_seconds()


def test_the_workers_database_url_points_to_the_application_database(services: dict[str, Any]) -> None:
    database = Database(services["worker"]["environment"]["ORCHESTRATOR_DATABASE_URL"])
    environment = services["application-database"]["environment"]

    assert database.url.host == "application-database"
    assert (database.url.username, database.url.password, database.url.database) == (
        environment["POSTGRES_USER"],
        environment["POSTGRES_PASSWORD"],
        environment["POSTGRES_DB"],
    )


def test_every_dependency_has_a_health_check(services: dict[str, Any]) -> None:
    dependencies = {
        (name, dependency, requirement["condition"])
        for name, service in services.items()
        for dependency, requirement in service.get("depends_on", {}).items()
    }

    assert {condition for _, _, condition in dependencies} == {"service_healthy"}
    assert [dependency for _, dependency, _ in dependencies if "healthcheck" not in services[dependency]] == []


def test_ports_are_bound_to_localhost_and_images_have_versions(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    images = [service["image"] for service in services.values() if "image" in service]

    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert [image for image in images if not re.search(r":\d", image)] == []


def test_the_image_runs_the_worker_as_a_normal_user_from_existing_files() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    included = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert "USER worker" in lines
    assert 'CMD ["python", "worker.py"]' in lines
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert set(copied) <= included
