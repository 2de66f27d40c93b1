"""The checks for leftovers find each kind of leftover, and nothing else."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LEDGER
from tests.leaks import LeakLedger, LogAudit

WAIT_FOR_END_OF_INPUT = [sys.executable, "-c", "import sys; sys.stdin.read()"]


@pytest.fixture
def ledger(tmp_path: Path) -> LeakLedger:
    tmp_path.joinpath("shared").mkdir()
    tmp_path.joinpath("raydask-0").mkdir()
    return LeakLedger(tmp_path, tmp_path / "shared")


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[int]:
    """The PID of a process that is no child of this one but has our folder as ``TMPDIR``."""
    program = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen({WAIT_FOR_END_OF_INPUT!r})\n"
        "print(child.pid, flush=True)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdin is not None and parent.stdout is not None
    with parent.stdin, parent.stdout:
        pid = int(parent.stdout.readline())
        parent.wait(timeout=30)
        yield pid


def test_nothing_is_found_where_nothing_is(ledger: LeakLedger) -> None:
    assert ledger.leftovers(ledger.snapshot(), grace=0) == []


def test_children_are_found(ledger: LeakLedger) -> None:
    before = ledger.snapshot()
    child = subprocess.Popen(WAIT_FOR_END_OF_INPUT, stdin=subprocess.PIPE)
    assert child.stdin is not None
    with child.stdin:
        found = ledger.leftovers(before, grace=0)
    child.wait(timeout=30)

    assert any(line.startswith(f"process {child.pid} ") for line in found)
    assert ledger.leftovers(before) == []


def test_orphans_are_found(ledger: LeakLedger, request: pytest.FixtureRequest) -> None:
    before = ledger.snapshot()
    pid = request.getfixturevalue("orphan")

    assert any(line.startswith(f"process {pid} ") for line in ledger.leftovers(before, grace=0))


def test_entries_and_shared_memory_are_found(ledger: LeakLedger, tmp_path: Path) -> None:
    before = ledger.snapshot()
    tmp_path.joinpath("raydask-0", "session").mkdir()
    tmp_path.joinpath("shared", "raydask-arena").touch()
    tmp_path.joinpath("shared", "somebody-elses").touch()

    assert ledger.leftovers(before, grace=0) == [
        f"entry {tmp_path}/raydask-0/session",
        f"shared memory {tmp_path}/shared/raydask-arena",
    ]


def test_descriptors_are_found(ledger: LeakLedger) -> None:
    before = ledger.snapshot()
    with socket.socket() as left_open:
        found = ledger.leftovers(before, grace=0)
        assert [line.split()[1] for line in found] == [str(left_open.fileno())]
    assert ledger.leftovers(before) == []


def test_adopted_things_may_stay_until_the_end(ledger: LeakLedger, tmp_path: Path) -> None:
    before = ledger.snapshot()
    with socket.socket() as inner, ledger.adopting():
        tmp_path.joinpath("raydask-0", "session").mkdir()
        inner.fileno()

    assert ledger.leftovers(before, grace=0) == []
    assert len(ledger.last_leftovers(before, grace=0)) == 1


@pytest.fixture(scope="session")
def long_lived() -> Iterator[socket.socket]:
    with socket.socket() as connection:
        yield connection


def test_what_session_fixtures_make_is_adopted(request: pytest.FixtureRequest) -> None:
    ledger = request.config.stash[LEDGER]
    before = ledger.snapshot()
    request.getfixturevalue("long_lived")

    assert ledger.snapshot() != before
    assert ledger.leftovers(before, grace=0) == []


def test_warnings_must_be_expected_and_expected_ones_must_come() -> None:
    audit = LogAudit()
    audit.handle(logging.makeLogRecord({"name": "raydask.x", "levelname": "ERROR", "msg": "lost"}))

    assert audit.settle([("came", True), ("maybe", False)]) == [
        "unexpected log: ERROR raydask.x: lost",
        "expected log did not come: came",
    ]
    assert audit.settle() == []


@pytest.mark.expect_log("on purpose")
def test_the_mark_allows_a_warning() -> None:
    logging.getLogger("raydask.tests").warning("on purpose")
