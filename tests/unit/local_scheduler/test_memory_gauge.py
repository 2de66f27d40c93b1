"""How much memory is used, read from a made-up machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raydask.ids import ProcessNumber
from raydask.local_scheduler.memory_gauge import MemoryGauge

GIB = 1 << 30
WORKER = ProcessNumber(1)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine of 16 GiB of which 4 are used, and no cgroups."""
    write(tmp_path / "proc/meminfo", total=16, available=12)
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 1\noom_kill 3\nnr_unstable 0\n")
    return tmp_path


def write(meminfo: Path, *, total: int, available: int) -> None:
    meminfo.parent.mkdir(parents=True, exist_ok=True)
    lines = {"MemTotal": total, "MemFree": 1, "MemAvailable": available}
    meminfo.write_text("".join(f"{name}:   {size << 20} kB\n" for name, size in lines.items()))


def limit_cgroup(root: Path, version: int, *, limit: int, usage: int, cache: int) -> None:
    line, folder, names, prefix = {
        1: ("4:memory:/job\n", "memory/job", ("limit_in_bytes", "usage_in_bytes"), "total_"),
        2: ("0::/job\n", "job", ("max", "current"), ""),
    }[version]
    (root / "proc/self").mkdir()
    (root / "proc/self/cgroup").write_text(line)
    group = root / "sys/fs/cgroup" / folder
    group.mkdir(parents=True)
    for name, size in zip(names, (limit, usage)):
        (group / f"memory.{name}").write_text(f"{size * GIB}\n")
    half = cache * GIB // 2
    (group / "memory.stat").write_text(
        f"anon 1\n{prefix}inactive_file {half}\n{prefix}active_file {half}\n"
    )


def gauge_of(root: Path, limit: int = 0, arena: str = "") -> MemoryGauge:
    gauge = MemoryGauge(arena, limit, root)
    gauge.start()
    return gauge


def test_the_machine_counts_where_nothing_else_limits(machine: Path) -> None:
    measured = gauge_of(machine).measure({WORKER: os.getpid()})

    assert (measured.used, measured.total) == (4 * GIB, 16 * GIB)
    assert measured.private[WORKER] > 0


@pytest.mark.parametrize("version", [1, 2])
def test_a_cgroup_counts_without_its_page_cache(machine: Path, version: int) -> None:
    limit_cgroup(machine, version, limit=8, usage=7, cache=4)
    measured = gauge_of(machine).measure({})

    assert (measured.used, measured.total) == (3 * GIB, 8 * GIB)


def test_the_fuller_one_counts(machine: Path) -> None:
    limit_cgroup(machine, 2, limit=8, usage=5, cache=4)
    gauge = gauge_of(machine)
    assert gauge.measure({}).total == 16 * GIB
    write(machine / "proc/meminfo", total=16, available=16)

    assert gauge.measure({}).total == 8 * GIB


def test_a_limit_is_compared_with_what_the_session_has(machine: Path, tmp_path: Path) -> None:
    arena = tmp_path / "arena"
    with arena.open("wb") as file:
        file.truncate(1 << 24)  # sparse, but for what is written
        file.write(b"x" * (1 << 20))
    measured = gauge_of(machine, 1 << 22, str(arena)).measure({WORKER: os.getpid()})

    assert measured.total == 1 << 22
    assert measured.used == measured.private[WORKER] + os.stat(arena).st_blocks * 512


def test_processes_that_have_ended_are_left_out(machine: Path) -> None:
    assert gauge_of(machine).measure({WORKER: 2**22 + 1}).private == {}


def test_nothing_is_measured_without_proc(tmp_path: Path) -> None:
    gauge = gauge_of(tmp_path)

    assert not gauge.is_available
    assert gauge.recent_kernel_kills() == 0


def test_what_the_kernel_has_just_ended_is_counted_for_a_while(machine: Path) -> None:
    gauge = gauge_of(machine)
    assert gauge.recent_kernel_kills() == 0
    (machine / "proc/vmstat").write_text("oom_kill 5\n")
    assert gauge.recent_kernel_kills() == 2
    gauge.measure({})
    assert gauge.recent_kernel_kills() == 2, "a measurement just before the news does not hide it"
    for _ in range(100):
        gauge.measure({})
    assert gauge.recent_kernel_kills() == 0
