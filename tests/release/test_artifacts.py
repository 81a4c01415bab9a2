"""The wheel and the sdist contain the engine, all of it, and nothing of SmartExpense."""

import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.release.artifacts import Artifacts, build, faults_of


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return build(tmp_path_factory.mktemp("dist"))


def test_wheel_and_sdist_contain_exactly_what_git_tracks_of_the_engine(artifacts: Artifacts) -> None:
    assert faults_of(artifacts) == []


def test_a_file_that_is_missing_or_too_much_is_reported(artifacts: Artifacts, tmp_path: Path) -> None:
    wheel, sdist = tmp_path / artifacts.wheel.name, tmp_path / artifacts.sdist.name
    with zipfile.ZipFile(artifacts.wheel) as whole, zipfile.ZipFile(wheel, "w") as part:
        for name in whole.namelist():
            if name != "orchestrator/py.typed":
                part.writestr(name, whole.read(name))
        part.writestr("workflows/money_transfer.py", "")
    with tarfile.open(sdist, "w:gz") as more:
        more.add(__file__, "package-1/starter/demo.py")

    faults = faults_of(Artifacts(wheel, sdist))

    assert "the wheel lacks orchestrator/py.typed" in faults
    assert "the wheel has workflows/money_transfer.py" in faults
    assert "the sdist has starter/demo.py" in faults
    assert "the sdist lacks README.md" in faults
