"""Spill files: their content, what is left of them, and what a full disk does."""

from __future__ import annotations

import errno
import os
import queue
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raydask.errors import StartError
from raydask.object_store import spiller as spiller_module
from raydask.object_store.backing import Backing
from raydask.object_store.sizes import ALIGNMENT, rounded
from raydask.object_store.spilled import SpillBatch, SpillFiles
from raydask.object_store.spiller import Spiller
from tests.unit.object_store.test_state import object_id

ROOT = Path(__file__).parents[3]
MIB = 1 << 20

Done = tuple[int, OSError | None]


class Disk:
    """A spiller over an arena of random bytes, and what it told."""

    def __init__(self, folder: Path) -> None:
        self.backing = Backing.create(16 * MIB)
        self.bytes = os.urandom(16 * MIB)
        os.pwrite(self.backing.fd, self.bytes, 0)
        self.folder = folder
        self.spiller = Spiller(self.backing.fd, str(folder))
        self.files = SpillFiles()
        self.done: queue.Queue[Done] = queue.Queue()

    def batch(self, *places: tuple[int, int]) -> SpillBatch:
        """Open a file for objects that are given as (offset, size)."""
        return self.files.begin(
            [(object_id(number), offset, size) for number, (offset, size) in enumerate(places)]
        )

    def write(self, batch: SpillBatch) -> Done:
        self.spiller.write(batch, self.on_done)
        return self.done.get(timeout=30)

    def on_done(self, file: int, error: OSError | None) -> None:
        self.done.put((file, error))

    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "session" / "spill")
    disk.spiller.start()
    yield disk
    disk.spiller.close()
    disk.backing.close()


def refuse(*_: Any) -> None:
    raise OSError(errno.EINVAL, "not with these files")


@pytest.mark.parametrize("refused", [(), ("sendfile",), ("sendfile", "posix_fallocate")])
def test_objects_are_in_the_file_where_the_batch_says(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, refused: tuple[str, ...]
) -> None:
    for name in refused:
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(spiller_module, "_CHUNK", 3 * MIB)  # more than one for the largest
    places = [(MIB, 5), (MIB + ALIGNMENT, 2 * ALIGNMENT), (0, 0), (4 * MIB, 7 * MIB + 3)]
    batch = disk.batch(*places)
    assert disk.write(batch) == (1, None)
    content = Path(disk.spiller.path_of(1)).read_bytes()
    assert len(content) == batch.size == sum(rounded(size) for _, size in places)
    for entry in batch.entries:
        written = content[entry.position : entry.position + entry.size]
        assert written == disk.bytes[entry.offset : entry.offset + entry.size]
    assert disk.names() == ["1.spill"]


def test_neighbours_in_the_arena_are_copied_at_once(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []
    sendfile: Callable[..., int] = os.sendfile

    def counting(out: int, source: int, offset: int, size: int) -> int:
        calls.append((offset, size))
        return sendfile(out, source, offset, size)

    monkeypatch.setattr(os, "sendfile", counting)
    disk.write(disk.batch(*[(page * ALIGNMENT, 100) for page in (3, 4, 5, 9, 8)]))
    assert [(offset // ALIGNMENT, size // ALIGNMENT) for offset, size in calls] == [
        (3, 3),
        (9, 1),
        (8, 1),
    ]


def test_without_a_thread_a_write_fails_and_a_later_one_does_not(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_to_start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse_to_start)
        file, error = disk.write(disk.batch((0, 100)))
    assert file == 1 and error is not None and error.errno == errno.EAGAIN
    assert disk.write(disk.batch((0, 100))) == (2, None)
    assert disk.names() == ["2.spill"]


def test_the_folder_is_this_users_alone_and_goes_with_the_spiller(disk: Disk) -> None:
    disk.write(disk.batch((0, MIB)))
    assert disk.folder.stat().st_mode & 0o777 == 0o700
    assert Path(disk.spiller.path_of(1)).stat().st_mode & 0o777 == 0o600
    disk.spiller.close()
    disk.spiller.close()
    assert not disk.folder.exists() and disk.folder.parent.exists()


def test_deleted_files_go(disk: Disk) -> None:
    for _ in range(3):
        disk.write(disk.batch((0, 100)))
    disk.spiller.delete(1)
    disk.spiller.delete(3)
    disk.write(disk.batch((0, 100)))  # deletions never wait behind a write
    assert disk.names() == ["2.spill", "4.spill"]


def test_files_that_somebody_else_removed_are_no_matter(disk: Disk) -> None:
    disk.write(disk.batch((0, 100)))
    os.unlink(disk.spiller.path_of(1))
    disk.spiller.delete(1)
    assert disk.write(disk.batch((0, 100))) == (2, None)


def test_a_folder_that_is_gone_is_told(disk: Disk) -> None:
    disk.folder.rmdir()
    file, error = disk.write(disk.batch((0, 100)))
    assert (file, error and error.errno) == (1, errno.ENOENT)
    disk.folder.mkdir()
    assert disk.write(disk.batch((0, 100))) == (2, None)


def test_an_arena_that_ends_is_told_and_leaves_no_file(disk: Disk) -> None:
    file, error = disk.write(disk.batch((15 * MIB, 2 * MIB)))
    assert (file, error and error.errno) == (1, errno.EIO)
    assert disk.names() == []


def test_what_is_unfinished_at_close_is_dropped(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sendfile: Callable[..., int] = os.sendfile

    def closing(*arguments: int) -> int:
        disk.spiller._closing = True
        return sendfile(*arguments)

    monkeypatch.setattr(os, "sendfile", closing)
    disk.spiller.write(disk.batch((0, 100), (MIB, 100)), disk.on_done)
    disk.spiller.write(disk.batch((0, 100)), disk.on_done)
    thread = disk.spiller._thread
    assert thread is not None
    thread.join(30)
    disk.spiller.close()
    assert disk.done.empty() and not disk.folder.exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "spill", tmp_path):
        spiller = Spiller(-1, str(folder))
        with pytest.raises(StartError, match=r"spill folder .* cannot be made"):
            spiller.start()
        spiller.close()
    assert tmp_path.exists()


def test_a_spiller_that_was_not_started_closes(tmp_path: Path) -> None:
    Spiller(-1, str(tmp_path)).close()
    assert tmp_path.exists()


def write_beyond_the_limit(folder: str) -> None:
    """What the subprocess below does: files may have 1 MiB, as on a disk with no more."""
    disk = Disk(Path(folder))
    disk.spiller.start()
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
    for size in (2 * MIB, MIB):
        file, error = disk.write(disk.batch((0, size)))
        sys.stdout.write(f"{file} {error and error.errno} {disk.names()}\n")
    disk.spiller.close()


@pytest.mark.parametrize("reserve", [True, False])
def test_no_room_is_told_and_leaves_no_file(tmp_path: Path, reserve: bool) -> None:
    script = (
        "import os\n"
        f"if not {reserve}: del os.posix_fallocate\n"
        "from tests.unit.object_store.test_spiller import write_beyond_the_limit\n"
        f"write_beyond_the_limit({str(tmp_path / 'spill')!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"1 {errno.EFBIG} []", "2 None ['2.spill']"]
