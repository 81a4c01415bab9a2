"""Tables in a module that Temporal's sandbox imports anew for each execution.

A table can be declared once in a process. An application in one file declares its tables beside its orchestrators, and
a second import of it fails: "Table 'stock' is already defined". So in the sandbox such a module is executed without
the statements that declare a table or that name one; what they defined is taken from the module as it was first
imported. Everything else is executed anew, and what `handle` reaches for is watched as in any other module.
"""

import ast
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from types import CodeType, ModuleType
from typing import Any

from temporalio import workflow

_MAPPERS = ("sqlalchemy", "sqlmodel")
"""Packages whose objects (tables, metadata, indexes, statements) belong to the tables."""


@dataclass(frozen=True, slots=True)
class _Module:
    """A module that declares tables, as the sandbox executes it."""

    file: str
    folders: Sequence[str] | None
    """Where its submodules are, if it is a package."""
    code: CodeType
    shared: Mapping[str, Any]
    """Names that are taken from the first import."""


_modules: dict[str, _Module] = {}


def share_tables(names: Iterable[str]) -> None:
    """Have the sandbox execute these modules without their tables, if they declare any.

    Args:
        names: of modules that are imported by now and that the sandbox imports anew.
    """
    for name in names:
        module = sys.modules[name]
        if name not in _modules and (made := _without_tables(module)) is not None:
            _modules[name] = made
    if _modules and _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


class _Finder(MetaPathFinder):
    """Finds the modules that declare tables; only in the sandbox."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        found = _modules.get(fullname)
        if found is None or not workflow.unsafe.in_sandbox():
            return None
        folders = None if found.folders is None else list(found.folders)
        return spec_from_file_location(
            fullname, found.file, loader=_WithoutTables(found), submodule_search_locations=folders
        )


class _WithoutTables(Loader):
    def __init__(self, module: _Module) -> None:
        self._module = module

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(self._module.shared)
        exec(self._module.code, vars(module))  # noqa: S102 - the author's own module, as an import executes it


_FINDER = _Finder()


def _without_tables(module: ModuleType) -> _Module | None:
    """The module without its tables; None if it declares none, or has no source to tell."""
    file = getattr(module, "__file__", None)
    if not file or not any(_is_of_tables(value) and _is_own(value, module) for value in vars(module).values()):
        return None
    try:
        with open(file, encoding="utf-8") as source:
            tree = ast.parse(source.read(), filename=file)
    except (OSError, SyntaxError, ValueError):
        return None
    statements = _Statements(vars(module))
    while statements.find_more(tree.body):
        pass
    tree.body = statements.others(tree.body)
    folders = getattr(module, "__path__", None)
    return _Module(
        file,
        None if folders is None else list(folders),
        compile(tree, file, "exec", dont_inherit=True),
        {name: value for name, value in vars(module).items() if name in statements.shared},
    )


class _Statements:
    """Which statements of a module declare a table or name one as they are executed."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.shared: set[str] = set()
        self._values = values

    def find_more(self, body: Sequence[ast.stmt]) -> bool:
        """Add the names that the shared statements define; whether there were new ones."""
        before = len(self.shared)
        for statement in body:
            if self._is_shared(statement):
                self.shared |= _defined(statement) & self._values.keys()
            else:
                for block in _blocks(statement):
                    self.find_more(block)
        return len(self.shared) > before

    def others(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        """The statements that are executed anew."""
        left = [statement for statement in body if not self._is_shared(statement)]
        for statement in left:
            for block in _blocks(statement):
                block[:] = self.others(block) or [ast.copy_location(ast.Pass(), block[0])]
        return left

    def _is_shared(self, statement: ast.stmt) -> bool:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            return False
        if any(_is_of_tables(self._values.get(name)) for name in _defined(statement)):
            return True
        return not self.shared.isdisjoint(_used(statement))


def _is_of_tables(value: object) -> bool:
    if isinstance(value, type):
        return getattr(value, "__table__", None) is not None
    return type(value).__module__.partition(".")[0] in _MAPPERS


def _is_own(value: object, module: ModuleType) -> bool:
    """Whether the module may have declared it: a class that it only imports is in another module."""
    return not isinstance(value, type) or value.__module__ == module.__name__


def _defined(statement: ast.stmt) -> set[str]:
    """Names that a statement defines in the module."""
    match statement:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {name for target in targets for name in _names(target)}
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target):
            return _names(target)
        case _:
            return set()


def _used(statement: ast.stmt) -> set[str]:
    """Names that a statement reads as it is executed; not what is in a function's body or a class's."""
    read: Sequence[ast.AST | None] = ()
    match statement:
        case ast.FunctionDef(decorator_list=decorators) | ast.AsyncFunctionDef(decorator_list=decorators):
            read = decorators
        case ast.ClassDef(decorator_list=decorators, bases=bases):
            read = [*decorators, *bases]
        case ast.Assign(value=value) | ast.AnnAssign(value=value) | ast.AugAssign(value=value) | ast.Expr(value=value):
            read = [value]
        case _:
            pass
    return {name for part in read if part is not None for name in _names(part)}


def _names(part: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(part) if isinstance(node, ast.Name)}


def _blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    """Bodies of a statement that are executed with the module: of `if`, `try`, `with` and the loops."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return []
    blocks = [getattr(statement, part, None) for part in ("body", "orelse", "finalbody")]
    blocks += [handler.body for handler in getattr(statement, "handlers", [])]
    return [block for block in blocks if block]
