"""Reading spilled objects where they lie, in both kinds of view."""

from __future__ import annotations

import gc
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from raydask.errors import ObjectLostError, UsageError
from raydask.object_store import views
from raydask.object_store.sizes import ALIGNMENT
from tests.unit.object_store.local_store import LocalStore
from tests.unit.object_store.test_views import Released

CONTENT = os.urandom(3 << 20)

both = pytest.mark.parametrize("writable", [False, True])


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "1.spill"
    file.write_bytes(CONTENT)
    return str(file)


@both
@pytest.mark.parametrize(
    ("position", "size"),
    [(0, 0), (0, 1), (ALIGNMENT, ALIGNMENT), (5 * ALIGNMENT, 2 << 20), (0, 3 << 20)],
)
def test_a_view_has_the_bytes_of_its_part(
    store: LocalStore, path: str, position: int, size: int, writable: bool
) -> None:
    released = Released()
    view = store.client().view_file(path, position, size, writable=writable, on_release=released)
    assert view == CONTENT[position : position + size]
    assert (view.readonly, view.format, view.nbytes) == (not writable, "B", size)
    del view
    assert released.times == 1


@both
def test_an_array_keeps_the_mapping_when_the_file_and_the_client_are_gone(
    store: LocalStore, path: str, writable: bool
) -> None:
    released = Released()
    view = store.client().view_file(path, 0, 1 << 20, writable=writable, on_release=released)
    array = np.frombuffer(view, np.uint8)[ALIGNMENT::2]
    del view
    os.unlink(path)
    store.close()
    gc.collect()
    assert released.times == 0
    assert array.tobytes() == CONTENT[ALIGNMENT : 1 << 20 : 2]
    assert array.flags.writeable is writable
    del array
    assert released.times == 1


def test_what_a_writable_view_changes_nobody_else_sees(store: LocalStore, path: str) -> None:
    client = store.client()
    mine, other = (
        client.view_file(path, ALIGNMENT, 1 << 20, writable=True, on_release=Released())
        for _ in range(2)
    )
    shared = client.view_file(path, ALIGNMENT, 1 << 20, writable=False, on_release=Released())
    mine[:5] = b"dirty"
    assert bytes(mine[:5]) == b"dirty"
    assert other == shared == CONTENT[ALIGNMENT : ALIGNMENT + (1 << 20)]
    assert Path(path).read_bytes() == CONTENT


@both
def test_nothing_stays_open_or_mapped(store: LocalStore, path: str, writable: bool) -> None:
    client = store.client()
    before = len(os.listdir("/proc/self/fd"))
    views = [
        client.view_file(path, 0, 100, writable=writable, on_release=Released()) for _ in range(50)
    ]
    assert len(os.listdir("/proc/self/fd")) == before
    assert path in Path("/proc/self/maps").read_text()
    del views
    assert path not in Path("/proc/self/maps").read_text()


@both
def test_a_file_that_is_gone_loses_the_object(store: LocalStore, path: str, writable: bool) -> None:
    client = store.client()
    os.unlink(path)
    released = Released()
    with pytest.raises(ObjectLostError, match=r"1\.spill, and that file is gone"):
        client.view_file(path, 0, 100, writable=writable, on_release=released)
    assert released.times == 0


@both
def test_a_file_that_was_cut_short_is_not_mapped(
    store: LocalStore, path: str, writable: bool
) -> None:
    os.truncate(path, ALIGNMENT)
    before = len(os.listdir("/proc/self/fd"))
    client = store.client()
    with pytest.raises(ObjectLostError, match="cut short"):
        client.view_file(path, ALIGNMENT, 1, writable=writable, on_release=Released())
    store.close()
    assert len(os.listdir("/proc/self/fd")) <= before


@both
def test_the_bytes_are_read_where_no_mapping_is_to_be_had(
    store: LocalStore, path: str, writable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "map_file", lambda *_, **__: None)
    released = Released()
    position, size = ALIGNMENT, (1 << 20) + 7
    view = store.client().view_file(path, position, size, writable=writable, on_release=released)
    assert released.times == 1
    assert view == CONTENT[position : position + size]
    assert view.readonly is not writable


@both
def test_pages_larger_than_the_arenas_are_no_matter(
    store: LocalStore, path: str, writable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mmap, "ALLOCATIONGRANULARITY", 1 << 16)
    view = store.client().view_file(
        path, 17 * ALIGNMENT, 100, writable=writable, on_release=Released()
    )
    assert view == CONTENT[17 * ALIGNMENT : 17 * ALIGNMENT + 100]


def test_a_closed_client_reads_no_file(store: LocalStore, path: str) -> None:
    client = store.client()
    client.close()
    with pytest.raises(UsageError):
        client.view_file(path, 0, 1, writable=False, on_release=Released())
