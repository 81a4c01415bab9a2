"""Building the wheel and the sdist, and comparing what they contain with what git tracks."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "orchestrator"
_BESIDE_IN_SDIST = frozenset({"CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"})
_SELECTED = (
    "orchestrator/py.typed",
    "orchestrator/store/migrations/script.py.mako",
    "orchestrator/store/migrations/versions/v0001_first.py",
    "orchestrator/cli/project/template/pyproject.toml.template",
    "orchestrator/cli/project/template/gitignore.template",
    "orchestrator/cli/project/template/package/order.py.template",
)
"""Files without which the package would fail only later; all others are compared with git, too."""


@dataclass(frozen=True, slots=True)
class Artifacts:
    """What was built."""

    wheel: Path
    sdist: Path


def declared_version() -> str:
    """Return the version that `pyproject.toml` declares, which is the only place."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def build(folder: Path) -> Artifacts:
    """Build the sdist, and the wheel from the sdist, as an installer does that finds no wheel.

    Raises:
        subprocess.CalledProcessError: the build failed.
    """
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    [wheel], [sdist] = list(folder.glob("*.whl")), list(folder.glob("*.tar.gz"))
    return Artifacts(wheel, sdist)


def faults_of(artifacts: Artifacts) -> list[str]:
    """Return a sentence for everything that is missing, too much or wrong in what was built."""
    tracked = _tracked_files()
    with zipfile.ZipFile(artifacts.wheel) as wheel:
        in_wheel = {name for name in wheel.namelist() if ".dist-info/" not in name}
        [metadata] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        described = wheel.read(metadata).decode()
    with tarfile.open(artifacts.sdist) as sdist:
        in_sdist = {name.partition("/")[2] for name in sdist.getnames()}
    version = declared_version()
    faults = [
        *_differences("wheel", in_wheel, tracked),
        *_differences("sdist", in_sdist - {".gitignore"}, tracked | _BESIDE_IN_SDIST),
        *(f"{name} is not tracked by git" for name in _SELECTED if name not in tracked),
    ]
    if f"\nVersion: {version}\n" not in described:
        faults.append(f"the wheel's version is not {version}")
    if f"## {version}\n" not in (ROOT / "CHANGELOG.md").read_text():
        faults.append(f"CHANGELOG.md has no heading for {version}")
    return faults


def _differences(kind: str, files: Collection[str], expected: Collection[str]) -> list[str]:
    missing, surplus = sorted(set(expected) - set(files)), sorted(set(files) - set(expected))
    return [f"the {kind} lacks {name}" for name in missing] + [f"the {kind} has {name}" for name in surplus]


def _tracked_files() -> set[str]:
    listed = subprocess.run(["git", "ls-files", PACKAGE], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(listed.stdout.splitlines())
