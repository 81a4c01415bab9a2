"""Prepares the code and the tables of the modules that Temporal's sandbox imports again for each execution.

The code is that with which the worker was started, even if the file has changed since. So all executions of a worker
run the same code, and a faulty file that no worker has loaded has no effect.

A table can be declared only once in a process. An application in a single file declares its tables next to its
orchestrators, so a second import of it fails with "Table 'stock' is already defined". The sandbox therefore executes
such a module without the statements that declare or use a table, and takes the names that they define from the first
import. It executes everything else again, and restricts `handle` as in any other module.
"""

import ast
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import InspectLoader, Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from types import CodeType, ModuleType
from typing import Any

from temporalio import workflow

_MAPPERS = ("sqlalchemy", "sqlmodel")
"""The packages whose objects (tables, metadata, indexes, statements) are shared."""


@dataclass(frozen=True, slots=True)
class _Module:
    """A module in the form that the sandbox executes."""

    first: ModuleType
    """The first import, outside the sandbox."""
    file: str
    folders: Sequence[str] | None
    """The folders of its submodules, if it is a package."""
    code: CodeType
    shared: Mapping[str, Any]
    """The names and values that are taken from the first import."""


_modules: dict[str, _Module] = {}


def prepare_modules(names: Iterable[str]) -> None:
    """Make the sandbox execute the current code of these modules, without their tables if they declare any.

    Args:
        names: the names of imported modules that the sandbox will import again.
    """
    for name in names:
        first = sys.modules[name]
        if name in _modules and _modules[name].first is first:
            continue
        if (prepared := _without_tables(first) or _as_it_is(first, name)) is not None:
            _modules[name] = prepared
    if _modules and _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


class _Finder(MetaPathFinder):
    """Finds the prepared modules, but only in the sandbox."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        module = _modules.get(fullname)
        if module is None or not workflow.unsafe.in_sandbox():
            return None
        folders = None if module.folders is None else list(module.folders)
        return spec_from_file_location(
            fullname, module.file, loader=_Loader(module), submodule_search_locations=folders
        )


class _Loader(Loader):
    def __init__(self, module: _Module) -> None:
        self._module = module

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(self._module.shared)
        exec(self._module.code, vars(module))  # noqa: S102 - the author's own module, as an import executes it


_FINDER = _Finder()


def _without_tables(module: ModuleType) -> _Module | None:
    """Return a module without its tables; None if it declares none or its source cannot be read."""
    file = getattr(module, "__file__", None)
    if not file or not any(_is_of_tables(value) and _is_own(value, module) for value in vars(module).values()):
        return None
    try:
        with open(file, encoding="utf-8") as source:
            tree = ast.parse(source.read(), filename=file)
    except (OSError, SyntaxError, ValueError):
        return None
    statements = _Statements(vars(module))
    while statements.find_shared(tree.body):
        pass
    tree.body = statements.not_shared(tree.body)
    return _Module(
        module,
        file,
        _folders(module),
        compile(tree, file, "exec", dont_inherit=True),
        {name: value for name, value in vars(module).items() if name in statements.shared},
    )


def _as_it_is(module: ModuleType, name: str) -> _Module | None:
    """Return a module with all of its code, or None if the code cannot be read, so that the file is imported."""
    file, spec = getattr(module, "__file__", None), getattr(module, "__spec__", None)
    loader = getattr(spec, "loader", None)
    # The running script is known by a name other than its own here.
    if not file or not isinstance(loader, InspectLoader) or spec is None or spec.name != name:
        return None
    try:
        code = loader.get_code(name)
    except (ImportError, SyntaxError, OSError):
        return None
    return None if code is None else _Module(module, file, _folders(module), code, {})


def _folders(module: ModuleType) -> list[str] | None:
    folders = getattr(module, "__path__", None)
    return None if folders is None else list(folders)


class _Statements:
    """Decides which statements of a module are shared: those that declare a table, or use one when executed."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.shared: set[str] = set()
        self._values = values

    def find_shared(self, body: Sequence[ast.stmt]) -> bool:
        """Add the names that shared statements define, and return whether any of them is new."""
        before = len(self.shared)
        for statement in body:
            if self._is_shared(statement):
                self.shared |= _defined(statement) & self._values.keys()
            else:
                for block in _blocks(statement):
                    self.find_shared(block)
        return len(self.shared) > before

    def not_shared(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        """Return the statements that are executed again."""
        executed = [statement for statement in body if not self._is_shared(statement)]
        for statement in executed:
            for block in _blocks(statement):
                block[:] = self.not_shared(block) or [ast.copy_location(ast.Pass(), block[0])]
        return executed

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
    """Whether the module may have declared the value; a class that it only imports belongs to another module."""
    return not isinstance(value, type) or value.__module__ == module.__name__


def _defined(statement: ast.stmt) -> set[str]:
    """Return the names that a statement defines in the module."""
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
    """Return the names that a statement reads when executed, without those in the body of a function or a class."""
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
    """Return the bodies of an `if`, `try`, `with` or loop, because these are executed with the module."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return []
    blocks = [getattr(statement, part, None) for part in ("body", "orelse", "finalbody")]
    blocks += [handler.body for handler in getattr(statement, "handlers", [])]
    return [block for block in blocks if block]
