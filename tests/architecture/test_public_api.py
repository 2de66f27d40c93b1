"""What ``raydask`` exports is there, and is documented."""

from __future__ import annotations

import ast
import inspect

import pytest

import raydask
from tests.architecture.source import engine
from tests.architecture.test_layers import public_names

PROMISED = {
    "available_resources",
    "cancel",
    "cluster_resources",
    "get",
    "get_actor",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "wait",
}


@pytest.mark.parametrize("name", sorted(public_names()))
def test_public_names_are_documented(name: str) -> None:
    value = getattr(raydask, name)

    if inspect.isroutine(value) or inspect.isclass(value):
        own = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
        assert own, f"raydask.{name} has no docstring of its own"


@pytest.mark.parametrize("name", sorted(public_names()))
def test_public_methods_are_documented(name: str) -> None:
    value = getattr(raydask, name)
    members = vars(value) if inspect.isclass(value) else {}
    bare = [
        attribute
        for attribute, member in members.items()
        if not attribute.startswith("_")
        and (
            inspect.isfunction(member) or isinstance(member, (staticmethod, classmethod, property))
        )
        and not inspect.getdoc(getattr(value, attribute))
    ]
    assert not bare, f"raydask.{name}: {bare}"


def test_the_promised_names_are_exported() -> None:
    package = next(file for file in engine() if file.module == "raydask")
    code = [node for node in package.tree.body if not isinstance(node, ast.Expr)]
    if [each for each in package.imports() if each.module != "__future__"] or len(code) > 1:
        assert public_names() >= PROMISED
