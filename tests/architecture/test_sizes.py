"""Small files and small functions; what is larger says why, here.

A file of 400 lines or a function of 40 is a moment to think; the limits below fail.  A
function's docstring does not count, the rest of it does, nested functions included.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.source import SourceFile, everything, parse

FILE_LINES = 600
FUNCTION_LINES = 60

LARGE: dict[str, str] = {
    "raydask/wire/messages.py": "one list of all messages: the protocol is to be read in one place",
}
"""``"raydask/x.py"`` or ``"raydask/x.py::Class.function"`` -> the reason.  For a hot loop that
is long on purpose, cite the measurement."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def oversized(file: SourceFile) -> Iterator[tuple[str, int]]:
    """Yield the file and those of its functions that are over the limits, with their lines."""
    lines = file.text.count("\n")
    if lines > FILE_LINES:
        yield file.place, lines
    for name, function in functions(file.tree, ""):
        lines = lines_of(function)
        if lines > FUNCTION_LINES:
            yield f"{file.place}::{name}", lines


def functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    """Yield every function below `node` with its qualified name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield prefix + child.name, child
            yield from functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.ClassDef):
            yield from functions(child, f"{prefix}{child.name}.")
        else:
            yield from functions(child, prefix)


def lines_of(function: Function) -> int:
    """Lines from ``def`` to the end, without the docstring."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        assert first.end_lineno is not None
        lines -= first.end_lineno - first.lineno + 1
    return lines


def test_nothing_is_too_large() -> None:
    found = dict(each for file in everything() for each in oversized(file))
    bad = [f"{name}: {lines} lines" for name, lines in found.items() if name not in LARGE]
    unused = set(LARGE) - set(found)

    assert not bad, "\n".join(bad)
    assert not unused, f"listed as large, but are not: {unused}"


@pytest.mark.parametrize(("body_lines", "found"), [(58, 0), (59, 0), (60, 1)])
def test_the_limit_is_exact_and_skips_the_docstring(body_lines: int, found: int) -> None:
    body = '        """One\n\n        two."""\n' + "        x = 1\n" * body_lines
    file = parse("raydask/x.py", f"class A:\n    def f(self):\n{body}")

    assert len(list(oversized(file))) == found
