"""`orchestrator new`: creates a small project that passes its own checks and tests."""

import keyword
import re
import shlex
import sys
from importlib.machinery import PathFinder
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from orchestrator.cli.terminal.output import Output
from orchestrator.settings import DISTRIBUTION

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*")
_LONGEST = 50
_SUFFIX = ".template"
_PACKAGE = "package"
"""The template folder that becomes the project's package."""
_OWN_MODULES = ("orchestrator", "tests", "worker")
"""The modules that every created project has or imports."""


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The project's name, which is its folder, e.g. my-shop.")],
) -> int:
    """Create a small project in a new folder: an event, two operations with compensations, an orchestrator, and tests.

    \b
    Examples:
      orchestrator new my-shop
    """
    package = _package_of(name)
    folder = Path(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise typer.BadParameter(
            f"{folder.absolute()} exists and is not an empty folder. Nothing was changed; give another name, or move it"
        )
    values = {"name": name, "package": package, "version": version(DISTRIBUTION)}
    try:
        written = _write(files("orchestrator.cli.project") / "template", folder, values)
    except OSError as fault:
        raise typer.TyperException(f"The project cannot be written to {folder.absolute()}: {fault}") from fault
    output = Output()
    output.line(f"{written} files were written to {folder}. Next:")
    output.line()
    for line in (f"cd {shlex.quote(name)}", "pip install -e '.[dev]'", "orchestrator dev", "pytest"):
        output.line(f"  {line}")
    return 0


def _package_of(name: str) -> str:
    """Return the name of the project's package.

    Raises:
        typer.BadParameter: a project cannot have that name.
    """
    package = name.lower().replace("-", "_")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise typer.BadParameter(
            f"{name!r} is not a name for a project. Begin with a letter, and use letters, digits, and single '-' or "
            f"'_' between them, at most {_LONGEST} characters, as in my-shop"
        )
    if keyword.iskeyword(package) or keyword.issoftkeyword(package) or package in sys.stdlib_module_names:
        raise typer.BadParameter(f"Python itself uses the name {package}, so no package can have it. Give another name")
    if package in _OWN_MODULES:
        raise typer.BadParameter(f"Every project has a module {package}, so its package needs another name")
    if _is_installed(package):
        raise typer.BadParameter(
            f"A module {package} is already installed here, and the project's package would hide it. Give another name"
        )
    return package


def _is_installed(package: str) -> bool:
    elsewhere = [path for path in sys.path if path and Path(path).absolute() != Path.cwd()]
    found = PathFinder.find_spec(package, elsewhere)
    return found is not None and found.origin is not None


def _write(template: Traversable, folder: Path, values: dict[str, str]) -> int:
    """Write the files of a template folder, and return their number."""
    folder.mkdir(exist_ok=True)
    written = 0
    for entry in template.iterdir():
        name = values["package"] if entry.name == _PACKAGE else entry.name
        if entry.is_dir():
            written += _write(entry, folder / name, values)
        elif name.endswith(_SUFFIX):
            name = name.removesuffix(_SUFFIX)
            # Git would apply a file of this name to the template itself.
            name = ".gitignore" if name == "gitignore" else name
            text = Template(entry.read_text(encoding="utf-8")).substitute(values)
            (folder / name).write_text(text, encoding="utf-8")
            written += 1
    return written
