"""The shared memory: its kinds, its size, and what is left of it."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raydask.errors import StartError, UsageError
from raydask.object_store import backing as backing_module
from raydask.object_store.backing import Backing, _room_in, memory_limit

MIB = 1 << 20
PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_reached_by_path(tmp_path: Path) -> None:
    for directory in (None, str(tmp_path)):
        backing = Backing.create(2 * MIB + 1, directory)
        assert backing.size == 2 * MIB
        fd = os.open(backing.path, os.O_RDWR)
        with mmap.mmap(backing.fd, backing.size) as one, mmap.mmap(fd, backing.size) as other:
            one[MIB : MIB + 5] = b"hello"
            assert other[MIB : MIB + 5] == b"hello"
        os.close(fd)
        backing.close()
        backing.close()
        assert not os.path.exists(backing.path)


def test_nothing_lies_in_the_folder_while_it_is_used(tmp_path: Path) -> None:
    backing = Backing.create(2 * MIB, str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    backing.close()


def test_without_proc_the_name_stays_until_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backing_module, "_path_through_proc", lambda fd: str(tmp_path / "none"))
    backing = Backing.create(2 * MIB, str(tmp_path))
    assert [str(path) for path in tmp_path.iterdir()] == [backing.path]
    assert Path(backing.path).stat().st_mode & 0o777 == 0o600
    backing.close()
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_sparse_and_its_size_is_fixed() -> None:
    backing = Backing.create(64 * MIB)
    assert os.fstat(backing.fd).st_blocks == 0
    for size in (MIB, 128 * MIB):
        with pytest.raises(PermissionError):
            os.ftruncate(backing.fd, size)
    backing.close()


def test_programs_that_are_executed_do_not_inherit_it() -> None:
    backing = Backing.create(2 * MIB)
    script = f"import os; os.fstat({backing.fd})"
    done = subprocess.run(
        [sys.executable, "-c", script], close_fds=False, stderr=subprocess.PIPE, check=False
    )
    assert b"Bad file descriptor" in done.stderr
    backing.close()


def test_the_default_is_a_share_of_the_memory() -> None:
    backing = Backing.create()
    assert backing.size == int(memory_limit() * 0.3) // 4096 * 4096
    backing.close()


@pytest.mark.expect_log("the object store gets")
def test_more_than_there_is_gets_less_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 200 * MIB
    monkeypatch.setattr(backing_module, "_room_in", lambda folder: (room, f"free in {folder}"))
    with caplog.at_level(logging.WARNING, logger="raydask"):
        anonymous = Backing.create(1 << 60)
        in_folder = Backing.create(1 << 60, str(tmp_path))
    assert anonymous.size <= memory_limit() * 0.9
    assert in_folder.size == room * 9 // 10
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "object_store_memory" in caplog.text
    anonymous.close()
    in_folder.close()


def test_a_file_in_a_folder_has_all_its_blocks(tmp_path: Path) -> None:
    backing = Backing.create(8 * MIB, str(tmp_path))
    assert os.fstat(backing.fd).st_blocks * 512 >= 8 * MIB
    backing.close()


def refuse(number: int) -> Callable[..., None]:
    def refusing(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    return refusing


@pytest.mark.expect_log("the object store is in anonymous memory")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EOPNOTSUPP])
def test_a_folder_that_reserves_no_room_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", refuse(number))
    backing = Backing.create(8 * MIB, str(tmp_path))
    assert (backing.size, os.fstat(backing.fd).st_blocks) == (8 * MIB, 0)
    assert list(tmp_path.iterdir()) == []
    backing.close()


@pytest.mark.expect_log("the object store is in anonymous memory")
def test_a_folder_with_too_little_room_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backing_module, "_room_in", lambda folder: (64 * MIB, "free in it"))
    with caplog.at_level(logging.WARNING, logger="raydask"):
        backing = Backing.create(100 * MIB, str(tmp_path))
    assert backing.size == 100 * MIB
    assert "there are only 64 MiB free in it" in caplog.text
    assert "set RAYDASK_OBJECT_STORE_FOLDER to" in caplog.text
    backing.close()


def test_without_anonymous_memory_too_little_room_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(os, "posix_fallocate", refuse(errno.ENOSPC))
    with pytest.raises(StartError, match=r"set RAYDASK_OBJECT_STORE_FOLDER to .* with more"):
        Backing.create(8 * MIB, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_another_error_of_the_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", refuse(errno.EIO))
    with pytest.raises(StartError, match="Input/output error"):
        Backing.create(8 * MIB, str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "available", "room"),
    [("tmpfs", "MemAvailable: 7 kB", 7 << 10), ("ext4", "MemAvailable: 7 kB", None)],
)
def test_a_folder_in_memory_has_no_more_room_than_the_memory(
    tmp_path: Path, kind: str, available: str, room: int | None
) -> None:
    device = tmp_path.stat().st_dev
    mount = f"26 1 {os.major(device)}:{os.minor(device)} / /x rw shared:4 - {kind} none rw"
    files = {"proc/meminfo": available, "proc/self/mountinfo": f"25 1 0:0 / / rw - a b c\n{mount}"}
    found, where = _room_in(str(tmp_path), machine(tmp_path, "0::/", files))
    space = os.statvfs(tmp_path)
    if room is None:
        assert found == pytest.approx(space.f_bavail * space.f_frsize, rel=0.2)
    else:
        assert (found, where) == (room, f"free in {tmp_path}, which is memory")


def test_without_proc_a_folder_is_taken_for_a_disk(tmp_path: Path) -> None:
    assert _room_in(str(tmp_path), tmp_path)[1] == f"free in {tmp_path}"


def test_too_little_room_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backing_module, "memory_limit", lambda: 50 * MIB)
    with pytest.raises(StartError, match="set object_store_memory to less"):
        Backing.create(100 * MIB)
    small = Backing.create(40 * MIB)
    assert small.size == 40 * MIB
    small.close()


def test_a_size_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(UsageError, match="object_store_memory=1000"):
        Backing.create(1000)


def test_a_folder_that_is_not_there_is_refused() -> None:
    with pytest.raises(StartError, match=r"set RAYDASK_OBJECT_STORE_FOLDER to a folder that ex"):
        Backing.create(2 * MIB, "/nonexistent/folder")


def machine(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": cgroup, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "limit"),
    [
        pytest.param("0::/a/b", {"sys/fs/cgroup/a/b/memory.max": "max"}, PHYSICAL, id="v2-none"),
        pytest.param("0::/a/b", {"sys/fs/cgroup/a/b/memory.max": "70000000"}, 70000000, id="v2"),
        pytest.param(
            "0::/a/b",
            {
                "sys/fs/cgroup/a/b/memory.max": "70000000",
                "sys/fs/cgroup/a/memory.max": "60000000",
            },
            60000000,
            id="v2-parent",
        ),
        pytest.param(
            "9:cpu:/x\n8:memory:/docker/0123\n0::/",
            {"sys/fs/cgroup/memory/memory.limit_in_bytes": "50000000"},
            50000000,
            id="v1-container",
        ),
        pytest.param(
            "4:cpuset,memory:/j",
            {"sys/fs/cgroup/memory/j/memory.limit_in_bytes": "9223372036854771712"},
            PHYSICAL,
            id="v1-none",
        ),
    ],
)
def test_the_limit_is_the_tightest_of_the_cgroups(
    tmp_path: Path, cgroup: str, files: dict[str, str], limit: int
) -> None:
    assert memory_limit(machine(tmp_path, cgroup, files)) == limit


def test_without_cgroups_the_limit_is_the_machine(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) == PHYSICAL
