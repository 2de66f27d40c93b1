"""The project's source as data: files, their dotted names, and what they import.

Nothing is imported or run: the tests of this folder read the syntax trees, so that they
also see imports inside functions and under ``if TYPE_CHECKING``.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

INSTALLED_AS = {"raydask": "raydask", "compat": "raydask.compat"}
"""Folder at the root to the package that it installs as."""


@dataclass(frozen=True)
class SourceFile:
    """One Python file; `module` is the name that it is imported under."""

    place: str
    module: str
    text: str
    tree: ast.Module

    def imports(self) -> list[Import]:
        """Every import of the file, wherever in it, as absolute names."""
        return [found for node in ast.walk(self.tree) for found in self._imports_at(node)]

    def _imports_at(self, node: ast.AST) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, "", node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = self._absolute(node)
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                if submodule in known_modules():
                    yield Import(submodule, "", node.lineno)
                else:
                    yield Import(base, alias.name, node.lineno)
        elif isinstance(node, ast.Call) and _name_of(node.func) in _IMPORTING_CALLS:
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield Import(first.value, "", node.lineno)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.module.split(".")
        drop = node.level - (1 if self.place.endswith("__init__.py") else 0)
        package = package[: len(package) - drop]
        return ".".join(package + ([node.module] if node.module else []))


@dataclass(frozen=True)
class Import:
    """`module` is what is loaded; `name` is what is taken from it, empty for all of it."""

    module: str
    name: str
    line: int


_IMPORTING_CALLS = {"import_module", "__import__"}


def _name_of(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def parse(place: str, text: str) -> SourceFile:
    """Return the file at `place` (relative to the root) as if it held `text`."""
    return SourceFile(place, _module_name(place), text, ast.parse(text, place))


def _module_name(place: str) -> str:
    parts = place.removesuffix(".py").split("/")
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join([INSTALLED_AS.get(parts[0], parts[0]), *parts[1:]])


@functools.cache
def files_under(folder: str) -> tuple[SourceFile, ...]:
    """Every Python file below a folder of the root, in order of their paths."""
    paths = sorted(ROOT.joinpath(folder).rglob("*.py"))
    return tuple(parse(_place(path), path.read_text("utf-8")) for path in paths)


def _place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def known_modules() -> frozenset[str]:
    """The dotted names of every module and package of the engine and the adapters."""
    names: set[str] = set()
    for folder in INSTALLED_AS:
        for path in ROOT.joinpath(folder).rglob("*.py"):
            parts = _module_name(_place(path)).split(".")
            names.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return frozenset(names)


def engine() -> tuple[SourceFile, ...]:
    """The files of ``raydask/``."""
    return files_under("raydask")


def adapters() -> tuple[SourceFile, ...]:
    """The files of ``compat/``."""
    return files_under("compat")


def files_of_tests() -> tuple[SourceFile, ...]:
    """The files of ``tests/``."""
    return files_under("tests")


def everything() -> tuple[SourceFile, ...]:
    """Every Python file of the project."""
    return engine() + adapters() + files_under("benchmarks") + files_of_tests()


def within(module: str, package: str) -> bool:
    """Say whether `module` is `package` or lies in it."""
    return module == package or module.startswith(package + ".")
