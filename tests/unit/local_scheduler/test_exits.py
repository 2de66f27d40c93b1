"""How a worker's end is told."""

from __future__ import annotations

import signal

import pytest

from raydask.local_scheduler.exits import describe_exit
from raydask.wire.messages import ChildExited


@pytest.mark.parametrize(
    ("status", "kernel_kills", "told", "not_told"),
    [
        (3 << 8, 1, "exited with code 3; its memory peaked at 250 MB", "kernel"),
        (signal.SIGSEGV, 1, "was ended by signal 11 (SIGSEGV)", "kernel"),
        (signal.SIGKILL, 0, "was ended by signal 9 (SIGKILL)", "kernel"),
        (signal.SIGKILL, 1, "the kernel ended a process just then", "nothing"),
        (127 - 1, 0, "an unknown signal", "kernel"),
    ],
)
def test_an_exit_is_described(status: int, kernel_kills: int, told: str, not_told: str) -> None:
    text = describe_exit(ChildExited(4711, status, 250_000_000), kernel_kills=kernel_kills)

    assert "process 4711" in text and told in text and not_told not in text
