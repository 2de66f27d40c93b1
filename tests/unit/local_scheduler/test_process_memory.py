"""Private memory of processes."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

from raydask.local_scheduler.process_memory import private_memory


def test_memory_of_its_own_counts_and_shared_memory_does_not() -> None:
    size = 64 << 20
    before = private_memory(os.getpid())
    own = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    own.write(b"x" * size)
    with_own = private_memory(os.getpid())
    shared = mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    shared.write(b"x" * size)
    with_both = private_memory(os.getpid())
    own.close()
    shared.close()

    assert before > 0
    assert with_own - before > 0.9 * size
    assert with_both - with_own < 0.5 * size


def test_a_process_that_has_ended_has_none() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    assert private_memory(ended.pid) == 0
