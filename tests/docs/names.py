"""Looks up what a document names: a test, a file, a make target, a command, or a Python object."""

import ast
import importlib
import re
from functools import cache

from orchestrator.cli.app import app
from tests.docs.markdown import ROOT


@cache
def tests() -> frozenset[str]:
    """The names of all tests of the project."""
    test_names: set[str] = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                test_names.add(node.name)
    return frozenset(test_names)


def exists(name: str) -> bool:
    """Tell whether something that a document names in backticks exists."""
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
    """Tell whether an object can be imported. Its class must declare fields and attributes set in `__init__`."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[cut:]:
            fields = getattr(value, "model_fields", {}) | getattr(value, "__annotations__", {})
            if hasattr(value, attribute):
                value = getattr(value, attribute)
            elif attribute in fields:
                value = fields[attribute]
            else:
                return False
        return True
    return False
