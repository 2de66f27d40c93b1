"""Every file says what it is for, and no name is a bag for anything."""

from __future__ import annotations

import ast
import re

from tests.architecture.source import adapters, engine, everything, files_of_tests, within

BAGS = re.compile(r"^_?(utils?|helpers?|misc|common|managers?)$")
EMPTY_TITLES = re.compile(r"(Manager|Helper|Utils?)$")

PUBLIC_PACKAGES = {"raydask.util"}
"""Named after ``ray.util``, where its users look for what it holds."""

NO_SLEEP = ("tests.unit", "tests.contract", "tests.simulation")


def test_every_module_opens_with_its_purpose() -> None:
    bad = [file.place for file in everything() if file.text and not ast.get_docstring(file.tree)]

    assert not bad, "no docstring at the head:\n" + "\n".join(bad)


def test_no_module_is_a_bag() -> None:
    bad = [
        file.place
        for file in everything()
        if BAGS.match(file.module.rpartition(".")[2]) and file.module not in PUBLIC_PACKAGES
    ]
    assert not bad, "name what they hold:\n" + "\n".join(bad)


def test_no_class_has_an_empty_title() -> None:
    bad = [
        f"{file.place}:{node.lineno} class {node.name}"
        for file in everything()
        for node in ast.walk(file.tree)
        if isinstance(node, ast.ClassDef) and EMPTY_TITLES.search(node.name)
    ]
    assert not bad, "\n".join(bad)


def test_nothing_is_patched_or_mocked() -> None:
    bad = [
        f"{file.place}:{each.line} imports {each.module} {each.name}"
        for file in engine() + adapters() + files_of_tests()
        for each in file.imports()
        if within(each.module, "unittest.mock") or (each.module, each.name) == ("unittest", "mock")
    ]
    assert not bad, "use an honest fake:\n" + "\n".join(bad)


def test_deterministic_tests_do_not_sleep() -> None:
    bad = [
        f"{file.place}:{node.lineno}"
        for file in files_of_tests()
        if any(within(file.module, folder) for folder in NO_SLEEP)
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "sleep"
    ]
    assert not bad, "wait for a condition instead:\n" + "\n".join(bad)
