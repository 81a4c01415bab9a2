"""Finding what a document names: a test, a file, a make target, a command, a Python object."""

import ast
import importlib
import re
from functools import cache

from orchestrator.cli.app import app
from tests.docs.markdown import ROOT


@cache
def tests() -> frozenset[str]:
    """Names of every test of the project."""
    found: set[str] = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found.add(node.name)
    return frozenset(found)


def exists(name: str) -> bool:
    """Whether there is what a document names in backticks."""
    if name.startswith("test_") and not name.endswith(".py"):
        return name in tests()
    if name.startswith("make "):
        return re.search(rf"^{re.escape(name[5:])}:", (ROOT / "Makefile").read_text(), re.M) is not None
    if name.startswith("orchestrator "):
        groups = {group.name for group in app.registered_groups}
        return name.split()[1] in {command.name for command in app.registered_commands} | groups
    if "/" in name or name.endswith((".py", ".md", ".toml")):
        return (ROOT / name).exists()
    return _is_python(name)


def _is_python(name: str) -> bool:
    """An importable object; of an annotated field or an attribute set in `__init__`, its class has to say so."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[cut:]:
            fields = getattr(found, "model_fields", {}) | getattr(found, "__annotations__", {})
            if hasattr(found, attribute):
                found = getattr(found, attribute)
            elif attribute in fields:
                found = fields[attribute]
            else:
                return False
        return True
    return False
