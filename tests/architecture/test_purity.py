"""Pure files decide; they do no I/O, read no clock, and draw no random numbers.

What they are told comes in as events and arguments, what they want done goes out as
actions.  So they can be tested without sleeping and run in a simulator as they are.
"""

from __future__ import annotations

import ast
from fnmatch import fnmatch

import pytest

from tests.architecture.source import SourceFile, engine, parse, within

PURE = (
    "raydask/ids.py",
    "raydask/placement.py",
    "raydask/task.py",
    "raydask/errors.py",
    "raydask/*/state.py",
    "raydask/*/policy.py",
    "raydask/*/events.py",
    "raydask/*/actions.py",
    "raydask/local_scheduler/call_sites.py",
    "raydask/local_scheduler/circles.py",
    "raydask/local_scheduler/creations.py",
    "raydask/local_scheduler/draining.py",
    "raydask/local_scheduler/drivers.py",
    "raydask/local_scheduler/evacuation.py",
    "raydask/local_scheduler/jobs.py",
    "raydask/local_scheduler/memory_report.py",
    "raydask/local_scheduler/peer_objects.py",
    "raydask/global_scheduler/bundles.py",
    "raydask/global_scheduler/departures.py",
    "raydask/global_scheduler/division.py",
    "raydask/global_scheduler/fairness.py",
    "raydask/global_scheduler/groups.py",
    "raydask/global_scheduler/leases.py",
    "raydask/global_scheduler/partings.py",
    "raydask/global_scheduler/placing.py",
    "raydask/global_scheduler/rounds.py",
    "raydask/global_scheduler/silences.py",
    "raydask/global_scheduler/waiting.py",
    "raydask/wire/versions.py",
    "raydask/object_store/arena.py",
    "raydask/object_store/regions.py",
    "raydask/object_store/spilled.py",
    "raydask/actor/ordering.py",
    "raydask/actor/recovery.py",
    "raydask/local_scheduler/memory_watch.py",
)

IMPURE = (
    "asyncio",
    "concurrent",
    "logging",
    "multiprocessing",
    "os",
    "psutil",
    "random",
    "redis",
    "secrets",
    "select",
    "selectors",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "uuid",
    "raydask.config",
)

IMPURE_CALLS = {"open", "print", "input"}

CORES = ("raydask/local_scheduler", "raydask/global_scheduler", "raydask/object_store")
"""Roles that must have a pure ``state.py`` as soon as they have any code."""


def is_pure(place: str) -> bool:
    return any(fnmatch(place, pattern) for pattern in PURE)


def pure_files() -> list[SourceFile]:
    return [file for file in engine() if is_pure(file.place)]


def impurities(file: SourceFile) -> list[str]:
    """What the file itself does that a pure one must not, one line each."""
    found = [
        f"{file.place}:{each.line} imports {each.module}"
        for each in file.imports()
        if any(within(each.module, impure) for impure in IMPURE)
    ]
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in IMPURE_CALLS:
            found.append(f"{file.place}:{node.lineno} calls {ast.unparse(node.func)}")
    return found


@pytest.mark.parametrize("file", pure_files(), ids=lambda file: file.place)
def test_pure_files_and_what_they_import_do_nothing_impure(file: SourceFile) -> None:
    modules = {each.module: each for each in engine()}
    pending, seen, found = [file], {file.module}, []
    while pending:
        current = pending.pop()
        found += impurities(current)
        # The package itself holds the public names; importing it is the layer test's matter.
        imported = {each.module for each in current.imports()} - {"raydask"} - seen
        seen |= imported
        pending += [modules[name] for name in sorted(imported) if name in modules]

    assert not found, f"reached from {file.place}:\n" + "\n".join(found)


@pytest.mark.parametrize("role", CORES)
def test_roles_have_a_pure_core(role: str) -> None:
    places = {file.place for file in engine() if file.place.startswith(role + "/")}
    if places - {f"{role}/__init__.py"}:
        assert f"{role}/state.py" in places


def test_impurities_are_found() -> None:
    text = "import os.path\nfrom raydask.config import Config\ndef f():\n    print(open('x'))\n"

    assert len(impurities(parse("raydask/x/state.py", text))) == 4
    assert len(pure_files()) >= 3
