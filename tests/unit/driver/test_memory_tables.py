"""A report as text: everything is named, and nothing is cut off."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from raydask.driver.memory_tables import (
    LEAST_WIDTH,
    PLAIN_WIDTH,
    as_text,
    in_words,
    print_report,
    size,
)
from raydask.wire.memory import (
    Holder,
    MemoryReport,
    NodeMemory,
    ObjectMemory,
    ProcessMemory,
    StateTotal,
)

OBJECT = ObjectMemory(
    "ab" * 20,
    8_000_000,
    "shared_memory",
    "task make[0]",
    "/home/me/program.py:12 in main",
    8,
    [Holder("driver", "program.py", 41), *[Holder("argument", "use", 0, "cd")] * 7],
    [Holder("worker", "task use", 42)],
)
NODE = NodeMemory(
    node=1,
    session="/tmp/session",
    capacity=512_000_000,
    used=12_000_000,
    sealed=8_000_000,
    unsealed=4_000_000,
    spilled=1_000_000,
    spilled_files=1,
    inline=0,
    arguments=2_500,
    tasks=7,
    totals={"shared_memory": StateTotal(2, 9_000_000), "spilled": StateTotal(1, 1_000_000)},
    processes=[
        ProcessMemory(40, "node", "", 30_000_000),
        ProcessMemory(41, "driver", "program.py", 50_000_000, 2, 8_000_100, 1, 8_000_000),
    ],
    objects=[OBJECT],
)


def test_totals_processes_and_objects_are_named() -> None:
    text = as_text(MemoryReport([NODE]))

    for part in (
        "node 1, session /tmp/session",
        "12.0 MB of 512 MB used: 8.00 MB in objects, 4.00 MB being written",
        "1.00 MB in 1 file\n",
        "0 B in small values and errors, 2.50 kB in arguments of 7 tasks",
        "3: 2 shared memory (9.00 MB), 1 spilled (1.00 MB)",
        "50.0 MB",
        "2 (8.00 MB)",
        "Objects, 1 of 3",
        "ab" * 20,
        "task make[0]",
        "/home/me/program.py:12 in main",
        "program.py",
        "driver 41",
        "argument of use",
        "worker 42 (task use), which reads it",
        "and 3 more",
    ):
        assert part in text, part
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [LEAST_WIDTH, 118, PLAIN_WIDTH, 300])
def test_nothing_is_cut_off_at_the_right(width: int) -> None:
    text = io.StringIO()
    long = ObjectMemory(
        "ab" * 20,
        1,
        "inline",
        "task " + "X" * 70,
        "/" + "Z" * 90,
        1,
        [Holder("function", "Y" * 80)],
        [],
    )
    node = msgspec.structs.replace(NODE, objects=[OBJECT, long])
    print_report(Console(file=text, width=width), MemoryReport([node]))

    shown = text.getvalue()
    assert [shown.count(letter) for letter in "XZY"] == [70, 90, 80]


def test_a_session_without_objects_has_tables_too() -> None:
    text = as_text(MemoryReport([NodeMemory(1, "/s", *[0] * 9, {}, [], [])]))

    assert "objects         0\n" in text
    assert "0 B in 0 files" in text


@pytest.mark.parametrize(
    ("holder", "words"),
    [
        (Holder("driver", "program.py", 4), "driver 4"),
        (Holder("worker", "actor Counter", 4), "worker 4 (actor Counter)"),
        (Holder("worker", "", 4), "worker 4"),
        (Holder("argument", "f", 4, "ab"), "argument of f in worker 4"),
        (Holder("borrowed", "f", 0, "ab"), "inside an argument of f"),
        (Holder("actor", "Counter", 4, "ab"), "detached actor Counter"),
        (Holder("object", "", 0, "ab"), "object ab"),
        (Holder("function", "f", 0, "ab"), "closure of f"),
    ],
)
def test_each_kind_of_holder_has_words(holder: Holder, words: str) -> None:
    assert in_words(holder) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.00 kB"),
        (9_996, "10.0 kB"),
        (99_951, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (10**13, "10,000 GB"),
    ],
)
def test_sizes_have_three_figures(count: int, words: str) -> None:
    assert size(count) == words
