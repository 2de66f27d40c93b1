"""Imports go one way: each part of the engine knows only the parts below it.

Imports inside functions and under ``if TYPE_CHECKING`` count: a type that is known is a
dependency.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.architecture.source import (
    Import,
    SourceFile,
    adapters,
    engine,
    known_modules,
    parse,
    within,
)

PUBLIC_NAMES = "raydask/__init__.py"

LAYERS: tuple[set[str], ...] = (
    {"ids", "errors", "version"},
    {"placement"},
    {"task", "config", "session_folder"},
    {"pickling"},
    {"serialization"},
    {"wire"},
    {"control", "object_store"},
    {"actor"},
    {"local_scheduler", "global_scheduler"},
    {"driver"},
    {"worker", "graph"},
    {PUBLIC_NAMES},
    {"util"},
    {"node"},
    {"testing", "__main__", "cluster_utils"},
    {"demo"},
)
"""From the ground up.  A part imports from itself and from earlier sets, never from its
own set's other parts."""

PUBLIC_NAMES_COME_FROM = {"ids", "errors", "task", "driver", "graph", "version"}

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""(importing module, imported module) -> why this one import may go up or sideways."""

FOREIGN = ("dask", "distributed", "numpy", "pandas", "pyarrow", "scipy", "ray")
"""What people's values are made of; the engine handles them without knowing them."""

KNOWS_FOREIGN = ("raydask.demo",)
"""The demo is a program that uses raydask, not a part of the engine."""

ADAPTER_DOORS = ("raydask", "raydask.driver.api", "raydask.pickling")
"""The only modules that load an adapter, inside a function, when it is first used."""

OPEN_TO_ADAPTERS = ("raydask.errors", "raydask.graph", "raydask.util", "raydask.compat")
"""What adapters may import beside the names in ``raydask.__all__``."""


def part_of(module: str) -> str:
    """The part of the engine that a module belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else PUBLIC_NAMES


def height_of(part: str) -> int:
    return next((height for height, parts in enumerate(LAYERS) if part in parts), -1)


def engine_imports(file: SourceFile) -> Iterator[Import]:
    return (each for each in file.imports() if within(each.module, "raydask"))


def wrong_way(file: SourceFile) -> Iterator[tuple[str, str, str]]:
    """Yield (importing module, imported module, where) for imports that are not downward."""
    part = part_of(file.module)
    for each in engine_imports(file):
        target = part_of(each.module)
        if target in {part, "compat"}:
            continue
        if part == PUBLIC_NAMES:
            allowed = target in PUBLIC_NAMES_COME_FROM
        else:
            allowed = height_of(target) < height_of(part)
        if not allowed:
            yield file.module, each.module, f"{file.place}:{each.line}"


def test_every_part_has_its_place() -> None:
    parts = {part_of(file.module) for file in engine()}

    assert not {part for part in parts if height_of(part) < 0}, "add them to LAYERS"


def test_imports_go_down() -> None:
    found = [each for file in engine() for each in wrong_way(file)]
    bad = [f"{at} imports {to}" for source, to, at in found if (source, to) not in EXCEPTIONS]
    unused = set(EXCEPTIONS) - {(source, to) for source, to, _ in found}

    assert not bad, "\n".join(bad)
    assert not unused, f"exceptions that nothing needs: {unused}"


def test_the_engine_knows_no_library_of_its_users() -> None:
    bad = [
        f"{file.place}:{each.line} imports {each.module}"
        for file in engine()
        if not any(within(file.module, module) for module in KNOWS_FOREIGN)
        for each in file.imports()
        if any(within(each.module, library) for library in FOREIGN)
    ]
    assert not bad, "\n".join(bad)


def test_adapters_are_loaded_on_first_use_and_through_their_doors() -> None:
    bad = []
    for file in engine():
        at_import = {each.line for each in parse_top_level(file).imports()}
        for each in file.imports():
            early = file.module not in ADAPTER_DOORS or each.line in at_import
            if within(each.module, "raydask.compat") and early:
                bad.append(f"{file.place}:{each.line} imports {each.module}")
    assert not bad, "\n".join(bad)


def parse_top_level(file: SourceFile) -> SourceFile:
    """The file without the bodies of its functions."""
    bare = parse(file.place, file.text)
    for node in ast.walk(bare.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [ast.Pass()]
    return bare


def test_adapters_use_public_names_only() -> None:
    public = public_names()
    bad = []
    for file in adapters():
        for each in engine_imports(file):
            if each.module == "raydask":
                allowed = not each.name or each.name in public
            else:
                allowed = any(within(each.module, door) for door in OPEN_TO_ADAPTERS)
            if not allowed:
                bad.append(f"{file.place}:{each.line} imports {each.module} {each.name}")
        bad += [f"{file.place}:{line} uses raydask.{name}" for name, line in inner_uses(file)]
    assert not bad, "\n".join(bad)


def inner_uses(file: SourceFile) -> Iterator[tuple[str, int]]:
    """Yield ``raydask.x`` where x is a part of the engine and no door, with the line."""
    parts = {part_of(module) for module in known_modules()}
    inner = parts - public_names() - {part_of(door) for door in OPEN_TO_ADAPTERS}
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "raydask" and node.attr in inner:
                yield node.attr, node.lineno


def public_names() -> set[str]:
    """The strings of ``__all__`` in ``raydask/__init__.py``, read without importing it."""
    for file in engine():
        if file.module == "raydask":
            for node in ast.walk(file.tree):
                if isinstance(node, ast.Assign | ast.AnnAssign):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    if [getattr(target, "id", "") for target in targets] == ["__all__"]:
                        value = node.value
                        assert value is not None
                        return set(ast.literal_eval(value))
    return set()


def test_compat_itself_needs_no_other_library() -> None:
    root = next(file for file in adapters() if file.module == "raydask.compat")

    assert all(
        within(each.module, "raydask") or each.module == "__future__" for each in root.imports()
    )


def test_upward_imports_are_found() -> None:
    up = parse("raydask/wire/x.py", "def f():\n    from raydask.driver import session\n")
    sideways = parse("raydask/control/x.py", "import raydask.object_store.arena\n")
    public = parse("raydask/ids.py", "from raydask import init\n")
    down = parse("raydask/driver/x.py", "from raydask.wire import framing\n")

    assert [len(list(wrong_way(file))) for file in (up, sideways, public, down)] == [1, 1, 1, 0]
